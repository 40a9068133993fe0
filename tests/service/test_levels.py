"""sigma and level of a request: ranges of the models, headers, JSON, the quality that a JPEG holds, and what is refused."""

import base64
import json
import subprocess

import pytest

import nano
from daemon import DAVID, Answer, Daemon, decoded, encoded, image, png

# A network that is told both; it was trained for ranges of sigma and level but for sr2, and for two holes.
ARCH = {**nano.ARCH, "sigma_cond": True, "level_cond": True}
RANGES = {
    "deblur": {"sigma": 0.05, "sigma_range": [0.02, 0.2], "h": 0.1, "level": 3, "level_range": [1, 4]},
    "denoise": {"sigma": 0.2, "sigma_range": [0.02, 0.4], "h": 0.1},
    "dejpeg": {"sigma": 0, "h": 0.1, "level": 20, "level_range": [10, 80]},
    "sr2": {"sigma": 0.05, "h": 0.1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    meta = {**nano.metadata(arch=ARCH), "david.tasks": json.dumps(RANGES)}
    (folder / "nano.safetensors").write_bytes(nano.safetensors(nano.parameters(arch=ARCH), meta))
    (folder / "single.safetensors").write_bytes(nano.model(seed=2))
    (folder / "painter.safetensors").write_bytes(nano.model(seed=3, tasks=("inpaint",)))
    return folder


@pytest.fixture(scope="module")
def daemon(folder, tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("daemon"), folder, max_pixels=40000).start()
    yield d
    assert d.stop() == 0, d.log()


def cli(folder, tmp_path, body, *options):
    source, target = tmp_path / "in", tmp_path / "out.png"
    source.write_bytes(body)
    subprocess.run([DAVID, "restore", "--model", folder / "nano.safetensors", "--seed", "3", "--dtype", "f32", *options, source,
                    target], check=True, capture_output=True)
    return target.read_bytes()


def test_models_tell_their_ranges(daemon):
    models = {m["name"]: m["tasks"] for m in daemon.get("/v1/models").json()["models"]}
    for task, want in RANGES.items():
        told = models["nano"][task]
        assert told["sigma"] == want["sigma"] and told["sigma_range"] == want.get("sigma_range", [want["sigma"]] * 2)
        assert told["level"] == want.get("level") and told["level_range"] == want.get("level_range")
    assert models["single"]["deblur"]["level_range"] == [3, 3]  # the table's, where the file names none
    assert models["single"]["denoise"]["level"] is None


@pytest.mark.parametrize("task, own, other", [
    ("denoise", {"sigma": 0.2}, {"sigma": 0.05}),
    ("deblur", {"sigma": 0.05, "level": 3}, {"level": 1.5}),
    ("deblur", {"sigma": 0.05, "level": 3}, {"sigma": 0.2}),
    ("dejpeg", {"level": 20}, {"level": 77}),
])
def test_what_is_told_changes_the_answer_and_stands_in_it(daemon, folder, tmp_path, task, own, other):
    plain, same, told = (daemon.restore(png(), task=task, seed=3, **p) for p in ({}, own, other))
    assert plain.status_code == same.status_code == told.status_code == 200, told.text
    assert plain.content == same.content != told.content
    for answer, given in (plain, own), (same, own), (told, {**own, **other}):
        assert float(answer.headers.get("David-Sigma", RANGES[task]["sigma"])) == given.get("sigma", RANGES[task]["sigma"])
        assert float(answer.headers.get("David-Level", "0")) == given.get("level", 0)
        assert answer.headers["David-Residual-Expected"] == f"{given.get('sigma', 0):g}"
    options = [word for name, value in other.items() for word in (f"--{name}", str(value))]
    assert cli(folder, tmp_path, png(), "--task", task, *options) == told.content


def test_headers_are_there_where_they_were_given_or_told(daemon):
    told = daemon.restore(png(), task="deblur").headers
    single = daemon.restore(png(), task="deblur", model="single").headers
    given = daemon.restore(png(), task="deblur", model="single", sigma=0.05, level=3).headers
    assert (told["David-Sigma"], told["David-Level"]) == (given["David-Sigma"], given["David-Level"]) == ("0.05", "3")
    assert "David-Sigma" not in single and "David-Level" not in single


def test_the_json_answer_has_both(daemon):
    answer = daemon.restore(png(), task="deblur", level=2, sigma=0.1, samples=2, output="all", seed=1).json()
    assert (answer["sigma"], answer["level"], answer["residual_expected"]) == (0.1, 2, 0.1)
    answer = daemon.restore(png(), task="sr2", samples=2, output="all", seed=1).json()
    assert (answer["sigma"], answer["level"]) == (0.05, None)
    assert decoded(base64.b64decode(answer["mean"])).size == (answer["width"], answer["height"]) == (64, 64)


def test_fields_of_a_form_are_the_parameters(daemon):
    body = png()
    form = daemon.restore(None, files={"image": body}, data={"task": "deblur", "seed": "9", "level": "2", "sigma": "0.1"}, task=None)
    assert form.status_code == 200, form.text
    assert form.content == daemon.restore(body, task="deblur", seed=9, level=2, sigma=0.1).content
    assert form.headers["David-Level"] == "2"


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("quality, level", [(10, 10), (35, 35), (80, 80), (3, 10), (95, 80)])
def test_a_jpeg_tells_its_quality(daemon, folder, tmp_path, mode, quality, level):
    body = encoded(image(40, 24, mode), "JPEG", quality=quality)
    answer = daemon.restore(body, task="dejpeg", seed=3)
    assert answer.status_code == 200, answer.text
    assert answer.headers["David-Level"] == str(level)
    assert answer.content == daemon.restore(body, task="dejpeg", seed=3, level=level).content
    assert answer.content == cli(folder, tmp_path, body, "--task", "dejpeg")
    assert daemon.restore(body, task="dejpeg", seed=3, level=50).headers["David-Level"] == "50"
    assert "David-Level" not in daemon.restore(body, task="denoise").headers


@pytest.mark.parametrize("query, words", [
    ("task=deblur&level=4.5", ["level = 4.5", "1..4"]),
    ("task=deblur&level=0.5", ["level = 0.5", "1..4"]),
    ("task=deblur&sigma=0.3", ["sigma = 0.3", "0.02..0.2"]),
    ("task=denoise&sigma=0.01", ["sigma = 0.01", "0.02..0.4"]),
    ("task=denoise&level=3", ["level", "denoise"]),
    ("task=dejpeg&level=9", ["level = 9", "10..80"]),
    ("task=dejpeg&sigma=0.1", ["sigma = 0.1", "0"]),
    ("task=sr2&sigma=0.06", ["sigma = 0.06", "0.05"]),
    ("task=deblur&model=single&level=2", ["level = 2", "3"]),
    ("task=deblur&level=0", ["level", "100"]),
    ("task=deblur&level=nan", ["level", "100"]),
    ("task=deblur&sigma=1e9", ["sigma", "10"]),
])
def test_what_a_model_was_not_trained_for_is_refused_before_the_body(daemon, query, words):
    with daemon.connect() as s:
        s.sendall(f"POST /restore?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n".encode())
        answer = Answer(s)
    assert answer.status == 400
    detail = json.loads(answer.body)["detail"]
    assert all(word in detail for word in words), detail


def test_the_only_task_s_mask_needs_no_task(daemon):
    mask = image(32, 32, "L").point(lambda v: 255 if v > 128 else 0)
    files = {"image": png(), "mask": encoded(mask)}
    alone, named = (daemon.restore(None, files=files, model="painter", seed=1, task=t) for t in (None, "inpaint"))
    assert alone.status_code == 200, alone.text
    assert alone.content == named.content
