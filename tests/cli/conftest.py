"""Shared by the tests of the command line: running david, safetensors, hash numbers, small
models and images.
"""
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests" / "bench"))
from tensors import hash_parameter, hash_values, read_safetensors, write_safetensors  # noqa: E402, F401

GOLDEN = pathlib.Path(os.environ.get("DAVID_GOLDEN", TREE / "tests" / "golden"))
DAVID = os.environ.get("DAVID", str(TREE / "build" / "david"))


def run(*args, code=0, **kwargs):
    done = subprocess.run([DAVID, *map(str, args)], capture_output=True, timeout=120, **kwargs)
    assert done.returncode == code, (args, done.returncode, done.stderr.decode()[-500:])
    return done


@pytest.fixture(scope="session")
def prior_file():
    """Names, shapes, configuration and seed of golden/prior.pt."""
    tensors, meta = read_safetensors(GOLDEN / "prior.f16.safetensors")
    return {n: t.shape for n, t in tensors.items()}, json.loads(meta["david.config"]), int(meta["seed"])


@pytest.fixture(scope="session")
def restorer(tmp_path_factory, prior_file):
    """A small model that nearly reproduces its input: hash weights, the last convolution zero."""
    shapes, config, seed = prior_file
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    weights = {n: hash_parameter(n, seed, s) for n, s in shapes.items()}
    for name in ("out.2.weight", "out.2.bias"):
        weights[name] = np.zeros_like(weights[name])
    tasks = {t: {"sigma": s, "h": 0.01, "label": None}
             for t, s in (("denoise", 0.2), ("sr4", 0.05), ("inpaint", 0.05), ("colorize", 0.05))}
    write_safetensors(path, weights, {
        "david.arch": json.dumps(config), "david.role": '"restorer"',
        "david.tasks": json.dumps(tasks), "david.tile": '{"size":32,"overlap":8}',
        "david.schedule": '"davi"'})
    return path


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """40 x 36 px of smooth colours."""
    y, x = np.mgrid[0:36, 0:40]
    rgb = np.stack([x * 6, y * 7, 255 - x * 3 - y * 3], -1).clip(0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(rgb).save(path)
    return path
