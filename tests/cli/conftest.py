"""What the tests of the command line share: running david, safetensors, hash numbers, small models and pictures."""
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
from PIL import Image

TREE = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(os.environ.get("DAVID_GOLDEN", TREE / "tests" / "golden"))
DAVID = os.environ.get("DAVID", str(TREE / "build" / "david"))
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def run(*args, code=0, **kwargs):
    done = subprocess.run([DAVID, *map(str, args)], capture_output=True, timeout=120, **kwargs)
    assert done.returncode == code, (args, done.returncode, done.stderr.decode()[-500:])
    return done


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    meta = header.pop("__metadata__", {})
    tensors = {}
    for name, t in header.items():
        start, end = (8 + size + o for o in t["data_offsets"])
        raw = data[start:end]
        if t["dtype"] == "BF16":
            value = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            value = np.frombuffer(raw, DTYPES[t["dtype"]])
        tensors[name] = value.reshape(t["shape"])
    return tensors, meta


def write_safetensors(path, tensors, meta):
    header, blobs, at = {"__metadata__": meta}, [], 0
    names = {np.dtype(v): k for k, v in DTYPES.items()}
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        header[name] = {"dtype": names[value.dtype], "shape": list(value.shape),
                        "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def hash_values(name, seed, shape):
    """v of engine/README.md section 7."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    base = (h + seed * 0x9E3779B97F4A7C15) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(base) + np.arange(int(np.prod(shape)), dtype=np.uint64)
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    u = (z >> np.uint64(40)).astype(np.float64) / 2**24
    return ((u - 0.5) * np.sqrt(12)).astype(np.float32).reshape(shape)


def hash_parameter(name, seed, shape):
    v = hash_values(name, seed, shape)
    if len(shape) > 1:
        return v * np.float32(1 / np.sqrt(np.prod(shape[1:])))
    if name.endswith(".weight"):
        return np.float32(1) + v * np.float32(0.1)
    return v * np.float32(0.1)


@pytest.fixture(scope="session")
def prior_file():
    """Names, shapes, configuration and seed of golden/prior.pt."""
    tensors, meta = read_safetensors(GOLDEN / "prior.f16.safetensors")
    return {n: t.shape for n, t in tensors.items()}, json.loads(meta["david.config"]), int(meta["seed"])


@pytest.fixture(scope="session")
def restorer(tmp_path_factory, prior_file):
    """A small model that leaves a picture nearly as it is: hash weights, the last convolution zero."""
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
