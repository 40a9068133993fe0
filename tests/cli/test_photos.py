"""The bundled photographs: the program makes exactly the images that README shows."""
import importlib.util

import numpy as np
import pytest
from PIL import Image

from conftest import TREE, run

PHOTOS = TREE / "deploy/photos"
spec = importlib.util.spec_from_file_location("make", PHOTOS / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int32)


def test_every_degraded_photograph_is_listed():
    assert {p.name for p in PHOTOS.glob("*.*.png")} == {f"{name}.{task}.png" for name, task, _ in make.PHOTOS}


@pytest.mark.parametrize("name, task, seed", make.PHOTOS)
def test_a_bundled_measurement_is_what_degrade_makes(name, task, seed, tmp_path):
    out = tmp_path / "y.png"
    run("degrade", "--task", task, "--seed", seed, PHOTOS / f"{name}.jpg", out)
    # Normals agree within 2e-6 between instruction sets: a value near a boundary may round differently.
    off = np.abs(pixels(out) - pixels(PHOTOS / f"{name}.{task}.png"))
    assert off.max() <= 1 and np.count_nonzero(off) < off.size / 1000


@pytest.mark.parametrize("name, task, seed", make.PHOTOS)
def test_the_shipped_model_brings_it_nearer_to_the_photograph(name, task, seed, tmp_path):
    truth, y = pixels(PHOTOS / f"{name}.jpg"), Image.open(PHOTOS / f"{name}.{task}.png").convert("RGB")
    out = tmp_path / "x.png"
    run("restore", "--task", task, "--seed", seed, PHOTOS / f"{name}.{task}.png", out)
    before = np.asarray(y.resize(truth.shape[1::-1], Image.BICUBIC)).astype(np.int32)
    assert np.mean((pixels(out) - truth) ** 2) < np.mean((before - truth) ** 2)
