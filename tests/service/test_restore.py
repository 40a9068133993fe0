"""What a good request gets: every task, output, format and header of POST /restore."""

import base64
import io
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from daemon import DAVID, decoded, encoded, image, png, wait_for

TASKS = ["deblur", "sr4", "denoise", "colorize", "sr2", "dejpeg"]
SCALE = {"sr4": 4, "sr2": 2}


def mask_of(width, height):
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 4, height // 4, width // 2, height // 2))
    return mask


@pytest.mark.parametrize("task", TASKS)
def test_every_task_answers_an_image_of_its_size(daemon, task):
    answer = daemon.restore(png(40, 24), task=task, seed=1)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "image/png"
    scale = SCALE.get(task, 1)
    image = decoded(answer.content)
    assert image.size == (40 * scale, 24 * scale) and image.mode == "RGB"


def test_every_header_of_a_restoration_is_there(daemon):
    answer = daemon.restore(png(), seed=18446744073709551615, headers={"X-Request-Id": "a.b_c-1"})
    assert answer.status_code == 200, answer.text
    models = {m["name"]: m for m in daemon.get("/v1/models").json()["models"]}
    h = answer.headers
    assert h["X-Request-Id"] == "a.b_c-1"
    assert h["David-Model"] == "nano@" + models["nano"]["digest"][:12]
    assert h["David-Seed"] == "18446744073709551615"
    assert float(h["David-H"]) == 0.1
    assert 0 < float(h["David-Residual-Rms"]) < 2
    assert float(h["David-Residual-Expected"]) == 0.2
    for part in ("decode", "queue", "compute", "encode"):
        assert re.search(rf"\b{part};dur=[0-9.]+", h["Server-Timing"]), h["Server-Timing"]


@pytest.mark.parametrize("sent", ["", "x" * 129, "white space", "semi;colon"])
def test_a_request_id_that_is_not_one_is_replaced(daemon, sent):
    answer = daemon.restore(png(), headers={"X-Request-Id": sent})
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", answer.headers["X-Request-Id"])
    assert answer.headers["X-Request-Id"] != sent


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(daemon):
    one, two, three = (daemon.restore(png(40, 40), seed=s).content for s in (7, 7, 8))
    assert one == two and one != three


def test_a_drawn_seed_is_returned_and_reproduces_the_answer(daemon):
    drawn = daemon.restore(png())
    again = daemon.restore(png(), seed=drawn.headers["David-Seed"])
    assert drawn.content == again.content
    assert drawn.headers["David-Seed"] != daemon.restore(png()).headers["David-Seed"]


def test_h_zero_takes_the_noise_away(daemon):
    answers = [daemon.restore(png(), seed=s, h=0) for s in (1, 2)]
    assert answers[0].content == answers[1].content
    assert float(answers[0].headers["David-H"]) == 0


@pytest.mark.parametrize("task", TASKS)
def test_service_and_command_line_give_the_same_bytes(daemon, models, tmp_path, task):
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(png(50, 34))
    subprocess.run([DAVID, "restore", "--task", task, "--model", models / "nano.safetensors", "--seed", "3", "--dtype", "f32",
                    source, target], check=True, capture_output=True)
    assert target.read_bytes() == daemon.restore(source.read_bytes(), task=task, seed=3).content


def test_a_mask_of_any_kind_is_the_same_hole_for_both(daemon, models, tmp_path):
    """Grays about the middle, as colours: where the hole ends must not depend on who asks, nor on how the mask is stored."""
    middle = Image.fromarray(np.random.default_rng(1).integers(126, 130, (34, 50, 3), dtype=np.uint8))
    source, mask, target = tmp_path / "in.png", tmp_path / "mask.png", tmp_path / "out.png"
    source.write_bytes(png(50, 34))
    mask.write_bytes(encoded(middle))
    hole = Image.fromarray(np.where(np.asarray(middle, int).sum(2) * 2 >= 3 * 255, 255, 0).astype(np.uint8))
    subprocess.run([DAVID, "restore", "--task", "inpaint", "--model", models / "nano.safetensors", "--seed", "3", "--dtype", "f32",
                    "--mask", mask, source, target], check=True, capture_output=True)
    answers = {daemon.restore(None, files={"image": source.read_bytes(), "mask": m}, task="inpaint", seed=3).content
               for m in (mask.read_bytes(), encoded(hole))}
    assert answers == {target.read_bytes()}


def test_mean_std_and_all_belong_together(daemon):
    body = png(40, 32)
    mean = daemon.restore(body, seed=5, samples=4, output="mean")
    std = daemon.restore(body, seed=5, samples=4, output="std")
    every = daemon.restore(body, seed=5, samples=4, output="all")
    assert (mean.status_code, std.status_code, every.status_code) == (200, 200, 200), every.text
    assert float(std.headers["David-Std-Scale"]) > 0
    answer = every.json()
    assert answer["task"] == "denoise" and answer["seed"] == "5" and answer["h"] == 0.1
    assert (answer["width"], answer["height"], len(answer["images"])) == (40, 32, 4)
    assert answer["request_id"] == every.headers["X-Request-Id"]
    samples = [np.asarray(decoded(base64.b64decode(i)), float) for i in answer["images"]]
    assert np.abs(np.mean(samples, 0) - np.asarray(decoded(base64.b64decode(answer["mean"])), float)).max() <= 1
    assert base64.b64decode(answer["mean"]) == mean.content
    assert base64.b64decode(answer["std"]) == std.content
    assert base64.b64decode(answer["images"][0]) == daemon.restore(body, seed=5).content
    assert answer["residual_expected"] == 0.2 and answer["residual_rms"] > 0 and answer["std_scale"] > 0


def test_json_by_accept_is_output_all(daemon):
    answer = daemon.restore(png(), seed=5, samples=2, headers={"Accept": "application/json"})
    assert answer.headers["Content-Type"].startswith("application/json")
    assert len(answer.json()["images"]) == 2


@pytest.mark.parametrize("accept, kind", [
    ("image/jpeg", "JPEG"), ("image/png", "PNG"), ("*/*", "PNG"), ("image/*", "PNG"), ("text/html", "PNG"),
    ("image/png;q=0.5, image/jpeg", "JPEG"), ("image/jpeg;q=0, image/png", "PNG"),
])
def test_accept_chooses_the_format(daemon, accept, kind):
    answer = daemon.restore(png(), headers={"Accept": accept})
    assert Image.open(io.BytesIO(answer.content)).format == kind
    assert answer.headers["Content-Type"] == f"image/{kind.lower()}"


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("task", ["denoise", "sr4", "sr2", "dejpeg"])
def test_gray_stays_gray_and_alpha_is_kept(daemon, mode, task):
    source = image(24, 24, mode)
    restored = decoded(daemon.restore(encoded(source), task=task).content)
    assert restored.mode == mode
    if mode.endswith("A") and task == "denoise":
        assert np.array_equal(np.asarray(restored)[..., -1], np.asarray(source)[..., -1])


def test_colorize_gives_colour_to_gray(daemon):
    assert decoded(daemon.restore(png(24, 24, "L"), task="colorize").content).mode == "RGB"


def test_sixteen_bits_in_sixteen_bits_out(daemon):
    deep = Image.fromarray((np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 60), "I;16")
    answer = daemon.restore(encoded(deep))
    assert answer.status_code == 200 and answer.content[24] == 16  # IHDR's bit depth


def test_exif_orientation_is_applied(daemon):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    answer = daemon.restore(encoded(image(40, 24), "JPEG", exif=exif))
    assert decoded(answer.content).size == (24, 40)


def test_inpaint_takes_a_mask_as_a_field_and_a_hole_as_alpha(daemon):
    source, mask = image(40, 40), mask_of(40, 40)
    by_mask = daemon.restore(None, files={"image": encoded(source), "mask": encoded(mask)}, task="inpaint", seed=4)
    assert by_mask.status_code == 200, by_mask.text
    holed = source.copy()
    holed.putalpha(mask.point(lambda v: 255 - v))
    by_alpha = daemon.restore(encoded(holed), task="inpaint", seed=4)
    assert by_alpha.status_code == 200, by_alpha.text
    assert by_mask.content == by_alpha.content
    assert decoded(by_alpha.content).mode == "RGB"


def test_parameters_may_be_fields_of_a_form(daemon):
    body = png()
    as_form = daemon.restore(None, files={"image": body}, data={"task": "denoise", "seed": "9"}, task=None)
    assert as_form.status_code == 200, as_form.text
    assert as_form.content == daemon.restore(body, seed=9).content


def test_task_and_model_may_be_left_out(daemon):
    named = daemon.restore(png(), model="denoiser", seed=2)
    alone = daemon.restore(png(), model="denoiser", seed=2, task=None)
    assert alone.status_code == 200, alone.text
    assert named.content == alone.content != daemon.restore(png(), seed=2).content


@pytest.mark.parametrize("size", [(8, 8), (9, 200), (33, 31), (150, 150)])
def test_any_size_from_eight_pixels_is_restored(daemon, size):
    assert decoded(daemon.restore(png(*size)).content).size == size


def test_memory_comes_back(daemon):
    before = daemon.idle
    for _ in range(3):
        daemon.restore(png(60, 60), samples=4, output="all")
    wait_for("memory back", lambda: daemon.reserved() == before)
