"""Safetensors files, and the hash numbers of engine/README.md section 7; needs only numpy."""
import json
import pathlib

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def read_safetensors(path):
    """The tensors of a file by name, and its metadata."""
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
        value = np.asarray(value)
        raw = value.tobytes()
        header[name] = {"dtype": names[value.dtype], "shape": list(value.shape),
                        "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def hash_values(name, seed, shape):
    """v of section 7."""
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
