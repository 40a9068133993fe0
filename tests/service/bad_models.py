"""Model files in which something is off, and what the refusal must name beside the file: rows of test_bad_input's table."""

import json
import os
import pickle
import subprocess
import tempfile
import zipfile

import numpy as np

import nano
from daemon import DAVID

GOOD = nano.model()
FIRST, SECOND = list(nano.parameters())[:2]
WEIGHT = "out.2.weight"


def with_tensor(name, change):
    parameters = nano.parameters()
    change(parameters, name)
    return nano.safetensors(parameters, nano.metadata())


def set_value(value):
    def change(parameters, name):
        parameters[name].flat[3] = value

    return change


def reshape(parameters, name):
    parameters[name] = parameters[name].T.copy()


def shrink(parameters, name):
    parameters[name] = parameters[name][:-1].copy()


def add(parameters, name):
    parameters["out.3.weight"] = parameters[name]


def overlap(header):
    header[SECOND]["data_offsets"] = [header[SECOND]["data_offsets"][0] - 4, header[SECOND]["data_offsets"][1] - 4]
    return header


def beyond(header):
    header[FIRST]["data_offsets"] = [0, 1 << 60]
    return header


def other_meta(**change):
    meta = {**nano.metadata(), **{k.replace("_", ".", 1): v for k, v in change.items()}}
    return nano.safetensors(nano.parameters(), {k: v for k, v in meta.items() if v is not None})


def other_arch(**change):
    return other_meta(david_arch=json.dumps({**nano.ARCH, **change}))


class Run:
    """What a hostile pickle would do."""

    def __reduce__(self):
        return os.system, ("touch hostile",)


def serve(body):
    """`david serve` on a folder whose default model is this file: its exit code, and what it said."""

    def run(_):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "spoilt.safetensors")
            with open(path, "wb") as f:
                f.write(body)
            env = {**os.environ, "DAVID_LISTEN": "127.0.0.1:0", "DAVID_MODELS": folder, "DAVID_STATE": folder,
                   "DAVID_DEFAULT_MODEL": "spoilt"}
            done = subprocess.run([DAVID, "serve"], env=env, capture_output=True, text=True, timeout=120,
                                  stdin=subprocess.DEVNULL)
        return f"exit {done.returncode}", done.stderr, {}

    return run


def convert(objects):
    """`david convert` of a .pt that holds this pickle; it must not have run anything."""

    def run(_):
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(os.path.join(folder, "spoilt.pt"), "w", zipfile.ZIP_STORED) as z:
                z.writestr("archive/data.pkl", pickle.dumps(objects, protocol=2))
            done = subprocess.run([DAVID, "convert", "spoilt.pt", "out.safetensors", "--arch", json.dumps(nano.ARCH)],
                                  cwd=folder, capture_output=True, text=True, timeout=120)
            left = sorted(os.listdir(folder))
        return f"exit {done.returncode}" if left == ["spoilt.pt"] else f"left {left}", done.stderr, {}

    return run


# name, what is run, how it ends, words of the refusal; "|" between alternatives
ROWS = [(f"model: {name}", run, {"exit 1"}, ["spoilt.", *words]) for name, run, words in [
    ("truncated", serve(GOOD[: len(GOOD) // 2]), ["ends at byte", "bytes of data"]),
    ("truncated in the header", serve(GOOD[:100]), ["header"]),
    ("empty", serve(b""), ["anything in it"]),
    ("header longer than the file", serve(b"\xff" * 7 + b"\x7f" + GOOD[8:]), ["header"]),
    ("no safetensors at all", serve(b"\x89PNG\r\n\x1a\n" + b"\0" * 64), ["header"]),
    ("overlapping offsets", serve(nano.safetensors(nano.parameters(), nano.metadata(), overlap)), [SECOND, "overlap"]),
    ("offsets beyond the file", serve(nano.safetensors(nano.parameters(), nano.metadata(), beyond)), [FIRST]),
    ("NaN weight", serve(with_tensor(WEIGHT, set_value(np.nan))), [WEIGHT, "finite"]),
    ("infinite weight", serve(with_tensor(WEIGHT, set_value(np.inf))), [WEIGHT, "finite"]),
    ("missing tensor", serve(with_tensor(WEIGHT, lambda p, n: p.pop(n))), [WEIGHT, "missing"]),
    ("a tensor too many", serve(with_tensor(WEIGHT, add)), ["out.3.weight"]),
    ("wrong shape", serve(with_tensor(WEIGHT, reshape)), [WEIGHT, "[32, 3, 3, 6]|[3, 3, 32, 6]", "[6, 32, 3, 3]"]),
    ("short tensor", serve(with_tensor(WEIGHT, shrink)), [WEIGHT, "[5, 32, 3, 3]", "[6, 32, 3, 3]"]),
    ("no architecture", serve(other_meta(david_arch=None)), ["david.arch"]),
    ("architecture that is no JSON", serve(other_meta(david_arch="{")), ["architecture", "JSON"]),
    ("a million channels", serve(other_arch(num_channels=32_000_000)), ["num_channels"]),
    ("task without sigma", serve(other_meta(david_tasks='{"denoise":{"h":0.1}}')), ["david.tasks", "sigma"]),
    ("task that does not exist", serve(other_meta(david_tasks='{"sharpen":{"sigma":0.1,"h":0.1,"label":null}}')), ["sharpen"]),
    ("tile of size 0", serve(other_meta(david_tile='{"size":0,"overlap":0}')), ["david.tile"]),
    ("a prior", serve(other_meta(david_role='"prior"')), ["restorer"]),
    ("hostile pickle", convert({"out.2.weight": Run()}), ["system"]),
]]
