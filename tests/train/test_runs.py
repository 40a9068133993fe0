"""The output of a run: lines, sheets, checkpoints, a model; and that a stopped run can be resumed."""
import json
import math
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from conftest import (DAVID, TREE, checkpoints, header_of, leftovers, lines, options, result, run, save, start, stop, tiles,
                      train)

PRIOR = {"step", "steps", "loss", "mse", "vb", "gradient"}
DAVI = {"step", "steps", "score_mse", "score_vb", "score_gradient", "discriminator", "discriminator_gradient", "ikl",
        "consistency", "truth", "adversarial", "features", "lambda", "total", "generator_gradient"}
TASKS = ("deblur", "sr4", "inpaint", "denoise", "colorize", "sr2", "dejpeg")


def test_a_prior_learns_and_tells_every_step(photos, tmp_path):
    told = lines(train("prior", photos, tmp_path / "p.safetensors", steps=120, json=True, lr=1e-3))
    assert [line["step"] for line in told] == list(range(1, 121))
    assert all(set(line) == PRIOR and all(math.isfinite(v) for v in line.values()) for line in told)
    assert all(abs(line["loss"] - line["mse"] - line["vb"]) < 1e-6 for line in told)
    first, last = (np.mean([line["mse"] for line in told[part]]) for part in (slice(0, 4), slice(-20, None)))
    assert 0.8 < first < 1.2 and last < 0.5 * first
    facts = json.loads(run("inspect", "--json", tmp_path / "p.safetensors").stdout)
    assert facts["role"] == "prior" and facts["provenance"]["steps"] == 120 and facts["provenance"]["parent"] is None


@pytest.mark.parametrize("task", TASKS)
def test_a_restorer_of_every_task(task, photos, prior, tmp_path):
    out = tmp_path / "r.safetensors"
    told = lines(train("davi", photos, out, prior=prior, task=task, steps=3, json=True))
    assert len(told) == 3 and all(set(line) == DAVI for line in told)
    assert all(math.isfinite(v) for line in told for v in line.values())
    facts = json.loads(run("inspect", "--json", out).stdout)
    parent = json.loads(run("inspect", "--json", prior).stdout)["digest"]
    assert facts["role"] == "restorer" and list(facts["tasks"]) == [task] and facts["provenance"]["parent"] == parent
    photo = save(np.full((20, 24, 3), 90), tmp_path / "photo.png")
    mask = save(np.pad(np.full((6, 6), 255), ((7, 7), (9, 9))), tmp_path / "mask.png")
    run("restore", "--model", out, "--task", task, *(["--mask", mask] if task == "inpaint" else []), photo, tmp_path / "o.png")
    scale = {"sr4": 4, "sr2": 2}.get(task, 1)
    assert Image.open(tmp_path / "o.png").size == (24 * scale, 20 * scale)
    assert all((line["consistency"] == 0) == (task == "dejpeg") for line in told)  # it has no adjoint


def test_one_restorer_of_all_tasks(photos, prior, tmp_path):
    out = tmp_path / "r.safetensors"
    train("davi", photos, out, prior=prior, task=",".join(TASKS), steps=4, micro_batch=2)
    assert list(json.loads(run("inspect", "--json", out).stdout)["tasks"]) == list(TASKS)


def test_the_weights_of_the_model_are_the_average(photos, tmp_path):
    """From step 101 on the average lags behind the weights; before, it is a copy of every fifth step's."""
    out = tmp_path / "p.safetensors"
    train("prior", photos, out, steps=103)
    model, state = header_of(out), checkpoints(out)[-1]
    flat = {k: np.frombuffer(state.read_bytes()[-header_end(state):][slice(*v["data_offsets"])], "<f4")
            for k, v in header_of(state).items() if k != "__metadata__"}
    name, tensor = next((n, t) for n, t in model.items() if n.endswith("in_layers.2.weight"))
    data = out.read_bytes()[-header_end(out):]
    weights = np.frombuffer(data[slice(*tensor["data_offsets"])], "<f4")
    assert find(flat["generator.average"], weights) and not find(flat["generator.params"], weights), name


def header_end(path):
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def find(haystack, needle):
    at = np.flatnonzero(haystack == needle[0])
    return any(np.array_equal(haystack[i:i + len(needle)], needle) for i in at)


def test_same_options_same_bytes_whatever_makes_the_batches(photos, tmp_path):
    memory = []
    for name, more in (("a", {}), ("b", {"loader_threads": 4, "cache_mib": 1}), ("c", {"recompute": "norms"}),
                       ("d", {"recompute": "blocks"}), ("e", {"seed": 8})):
        done = train("prior", photos, tmp_path / name, steps=3, size=64, **more)
        memory.append(int(re.search(rb"3 steps in (\d+) MiB", done.stderr)[1]))
    a, b, c, d, e = (result(tmp_path / name) for name in "abcde")
    assert a == b and a == c and a == d and a[0] != e[0]
    assert memory[0] == memory[1] and memory[3] < memory[2] < memory[0]


def test_micro_batches_add_up_to_the_batch(photos, tmp_path):
    whole, parts = (lines(train("prior", photos, tmp_path / f"m{m}", steps=1, micro_batch=m, json=True, dtype="f32"))[0]
                    for m in (4, 1))
    for name in PRIOR - {"step", "steps"}:
        assert abs(whole[name] - parts[name]) < 1e-5 * abs(whole[name]), name


def test_the_last_checkpoints_are_kept_and_sheets_come_in_time(photos, prior, tmp_path):
    out = tmp_path / "r.safetensors"
    train("davi", photos, out, prior=prior, steps=14, checkpoint_every=3, keep=2, sheet_every=6)
    assert [p.name for p in checkpoints(out)] == ["step-000000012.safetensors", "step-000000014.safetensors"]
    sheets = sorted((tmp_path / "r.safetensors.checkpoints").glob("sheet-*"))
    assert [p.name for p in sheets] == ["sheet-000000006.png", "sheet-000000012.png"]
    assert Image.open(sheets[0]).size == (3 * 18 - 2, 4 * 18 - 2)  # a row for each of four: truth, input, answer
    assert leftovers(out) == []


@pytest.mark.parametrize("kind", ["prior", "davi"])
def test_sigterm_is_a_checkpoint_and_exit_0_and_resuming_ends_the_same(kind, photos, prior, tmp_path):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    told = lines(train(kind, photos, whole, prior=prior, steps=60, json=True))
    went = start(options(kind, photos, parts, prior=prior, steps=60, json=True))
    try:
        head = [went.stdout.readline() for _ in range(5)]
        went.send_signal(signal.SIGTERM)
        out, err = went.communicate(timeout=60)
    finally:
        stop(went)
    done = len(head) + out.count(b"\n")
    assert went.returncode == 0 and 5 <= done < 60
    assert not parts.exists() and b"--resume" in err and str(checkpoints(parts)[-1]).encode() in err
    rest = train(kind, photos, parts, prior=prior, steps=60, json=True, resume=True)
    assert lines(rest) == told[done:] and result(parts) == result(whole)


def test_a_stopped_run_becomes_a_model_without_another_step(photos, tmp_path):
    out = tmp_path / "p.safetensors"
    train("prior", photos, out, steps=6)
    expected = result(out)
    out.unlink()
    assert b"6 steps" in train("prior", photos, out, steps=1, resume=True).stderr and result(out) == expected


def test_resume_where_there_is_nothing_begins(photos, tmp_path):
    train("prior", photos, tmp_path / "a", steps=2, resume=True)
    train("prior", photos, tmp_path / "b", steps=2)
    assert result(tmp_path / "a") == result(tmp_path / "b")


def test_the_readme_tells_of_every_value_and_of_no_option_that_is_not_there():
    section = (TREE / "README.md").read_text().split("\n## Training\n")[1].split("\n## ")[0]
    for name in PRIOR | DAVI:
        assert f"`{name}`" in section, name
    there = set(re.findall(rb"--([a-z-]+)", run("train", "--help").stdout + run("inspect", "--help").stdout
                           + run("sample", "--help").stdout))
    told = set(re.findall(r"--([a-z-]+)", section))
    assert len(told) > 10 and told <= {name.decode() for name in there}, told


def test_progress_is_for_terminals(photos, prior, tmp_path):
    assert train("prior", photos, tmp_path / "a", steps=3).stderr.count(b"\n") == 1
    for kind, words in (("prior", (b"3 of 3", b"images/s", b"mse")), ("davi", (b"3 of 3", b"total", b"consistency"))):
        ours, theirs = pty.openpty()
        went = subprocess.Popen([DAVID, *options(kind, photos, tmp_path / f"{kind}.x", prior=prior, steps=3)], stderr=theirs,
                                stdout=subprocess.PIPE)
        os.close(theirs)
        shown = b""
        try:
            while some := os.read(ours, 4096):
                shown += some
        except OSError:  # the other end is closed
            pass
        os.close(ours)
        assert went.wait(60) == 0 and went.stdout.read() == b"" and all(w in shown for w in words), shown
        went.stdout.close()


def test_samples_of_a_prior(prior, tmp_path):
    sheet, again = tmp_path / "s.png", tmp_path / "t.png"
    run("sample", "--prior", prior, "--steps", 4, "--count", 5, "--seed", 3, sheet)
    run("sample", "--prior", prior, "--steps", 4, "--count", 5, "--seed", 3, again)
    assert Image.open(sheet).size == (3 * 18 - 2, 2 * 18 - 2) and sheet.read_bytes() == again.read_bytes()
    run("sample", "--prior", prior, "--steps", 4, "--count", 5, "--seed", 4, again)
    assert sheet.read_bytes() != again.read_bytes()
    assert run("sample", "--prior", prior, "--steps", 1, "--count", 1, "-").stdout.startswith(b"\x89PNG")


# ---- the data ----

def sheet_of(tmp_path, image, kind="prior", side=16, batch=64, **more):
    """The rows of the first step of a run on one image."""
    data, out = tmp_path / "data", tmp_path / "x.safetensors"
    shutil.rmtree(data, ignore_errors=True)
    shutil.rmtree(f"{out}.checkpoints", ignore_errors=True)
    data.mkdir()
    save(image, data / "one.png")
    train(kind, data, out, steps=1, batch=batch, micro_batch=batch, sheet_every=1, size=side, **more)
    return tiles(tmp_path / "x.safetensors.checkpoints" / "sheet-000000001.png", side)


def test_crops_lie_in_all_eight_ways(tmp_path):
    image = np.random.default_rng(2).integers(0, 256, (16, 16, 3))
    ways = [np.rot90(p, k) for p in (image, image[:, ::-1]) for k in range(4)]
    seen = [next(i for i, way in enumerate(ways) if np.abs(way - row[0]).max() == 0) for row in sheet_of(tmp_path, image)]
    assert set(seen) == set(range(8))


def test_crops_prefer_texture(tmp_path):
    image = np.full((128, 128, 3), 100)
    image[:, :32] = np.random.default_rng(3).integers(0, 256, (128, 32, 3))  # a quarter has texture
    share = [np.mean([row[0].std() > 5 for row in sheet_of(tmp_path, image, texture=t)]) for t in (0, 8)]
    assert share[0] < 0.55 and share[1] > 0.7


def test_crops_are_shrunk_by_up_to_the_jitter(tmp_path):
    ramp = np.tile(np.arange(0, 192, 2)[:, None, None], (1, 96, 3))  # 2 levels a pixel
    slopes = [np.abs(np.gradient(row[0][..., 0], axis=0)).mean() + np.abs(np.gradient(row[0][..., 0], axis=1)).mean()
              for row in sheet_of(tmp_path, ramp, jitter=3)]
    assert min(slopes) > 1.95 and max(slopes) < 6.1 and np.ptp(slopes) > 3
    slopes = [np.abs(np.gradient(row[0][..., 0], axis=0)).mean() + np.abs(np.gradient(row[0][..., 0], axis=1)).mean()
              for row in sheet_of(tmp_path, ramp, jitter=1)]
    assert np.abs(np.array(slopes) - 2).max() < 0.01


def test_holes_are_boxes_and_strokes(tmp_path, prior):
    rows = sheet_of(tmp_path, np.full((40, 40, 3), 255), kind="davi", side=32, batch=32, prior=prior, task="inpaint", sigma=0)
    boxes = strokes = 0
    for row in rows:
        assert (row[0] == 255).all() and set(np.unique(row[1])) == {128, 255}
        hole = row[1][..., 0] == 128
        assert 0 < hole.mean() < 0.95
        y, x = np.nonzero(hole)
        filled = hole.sum() / (np.ptp(y) + 1) / (np.ptp(x) + 1)
        boxes += filled == 1  # one box, or several that make one
        corners = hole[y.min(), x.min()], hole[y.min(), x.max()], hole[y.max(), x.min()], hole[y.max(), x.max()]
        strokes += not any(corners)
    assert boxes >= 3 and strokes >= 3


def test_the_measurement_is_the_task_of_its_sigma(tmp_path, prior):
    gray = np.full((40, 40, 3), 128)
    for sigma in (0.05, 0.2):
        rows = sheet_of(tmp_path, gray, kind="davi", prior=prior, task="denoise", sigma=sigma, batch=16)
        noise = np.stack([row[1] - row[0] for row in rows]) / 127.5
        assert abs(noise.std() / sigma - 1) < 0.03 and abs(noise.mean()) < 0.02 * sigma + 0.004


def test_decoded_images_are_bounded_by_the_cache(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    y, x = np.mgrid[0:1600, 0:1600]
    for i in range(12):  # 7.7 MB each
        save(np.stack([(x * (i + 1)) >> 4, y >> 3, x ^ y], -1) % 256, data / f"{i}.png")
    most = []
    for mib in (8, 1024):
        went = start(options("prior", data, tmp_path / f"c{mib}", steps=12, cache_mib=mib, json=True))
        try:
            while went.stdout.readline():  # a checkpoint and a model are written after the last line
                status = pathlib.Path(f"/proc/{went.pid}/status").read_text()
                peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024 if "VmHWM" in status else peak
            assert went.wait(60) == 0
        finally:
            stop(went)
        most.append(peak)
    assert most[0] + 40 < most[1], most  # MiB
    assert result(tmp_path / "c8") == result(tmp_path / "c1024")
