"""A model file in which anything is off is refused whole, with the offender named, and the daemon does not start on it."""

import json
import os
import pickle
import subprocess
import zipfile

import numpy as np
import pytest

import nano
from daemon import DAVID

GOOD = nano.model()
FIRST, SECOND = list(nano.parameters())[:2]


def with_tensor(name, change):
    parameters = nano.parameters()
    change(parameters, name)
    return nano.safetensors(parameters, nano.metadata())


def set_nan(parameters, name):
    parameters[name].flat[3] = np.nan


def reshape(parameters, name):
    parameters[name] = parameters[name].T.copy()


def shrink(parameters, name):
    parameters[name] = parameters[name][:-1].copy()


def overlap(header):
    header[SECOND]["data_offsets"] = [header[SECOND]["data_offsets"][0] - 4, header[SECOND]["data_offsets"][1] - 4]
    return header


def beyond(header):
    header[FIRST]["data_offsets"] = [0, 1 << 60]
    return header


def other_meta(**change):
    meta = {**nano.metadata(), **{k.replace("_", ".", 1): v for k, v in change.items()}}
    return nano.safetensors(nano.parameters(), {k: v for k, v in meta.items() if v is not None})


class Run:
    """What a hostile pickle would do."""

    def __reduce__(self):
        return os.system, ("touch hostile",)


def hostile_pickle(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        z.writestr("archive/data.pkl", pickle.dumps({"out.2.weight": Run()}, protocol=2))


WEIGHT = "out.2.weight"
TABLE = [
    ("truncated", GOOD[: len(GOOD) // 2], []),
    ("truncated header", GOOD[:100], []),
    ("empty", b"", []),
    ("header longer than the file", b"\xff" * 7 + b"\x7f" + GOOD[8:], []),
    ("overlapping offsets", nano.safetensors(nano.parameters(), nano.metadata(), overlap), [SECOND]),
    ("offsets beyond the file", nano.safetensors(nano.parameters(), nano.metadata(), beyond), [FIRST]),
    ("NaN weight", with_tensor(WEIGHT, set_nan), [WEIGHT]),
    ("missing tensor", with_tensor(WEIGHT, lambda p, n: p.pop(n)), [WEIGHT]),
    ("wrong shape", with_tensor(WEIGHT, reshape), [WEIGHT]),
    ("short tensor", with_tensor(WEIGHT, shrink), [WEIGHT]),
    ("no architecture", other_meta(david_arch=None), ["david.arch"]),
    ("architecture that is no JSON", other_meta(david_arch="{"), ["arch"]),
    ("a million channels", other_meta(david_arch=json.dumps({**nano.ARCH, "num_channels": 32_000_000})), ["num_channels"]),
    ("task without sigma", other_meta(david_tasks='{"denoise":{"h":0.1}}'), ["sigma"]),
    ("tile of size 0", other_meta(david_tile='{"size":0,"overlap":0}'), ["tile"]),
]


@pytest.mark.parametrize("body, words", [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_bad_model_file_is_refused_and_the_offender_named(tmp_path, body, words):
    (tmp_path / "nano.safetensors").write_bytes(body)
    env = {**os.environ, "DAVID_LISTEN": "127.0.0.1:0", "DAVID_MODELS": str(tmp_path), "DAVID_STATE": str(tmp_path / "state"),
           "DAVID_DEFAULT_MODEL": "nano"}
    done = subprocess.run([DAVID, "serve"], env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done.stderr
    for word in words + ["nano"]:
        assert word in done.stderr, done.stderr


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path):
    hostile_pickle(tmp_path / "model.pt")
    done = subprocess.run([DAVID, "convert", tmp_path / "model.pt", tmp_path / "out.safetensors", "--arch", json.dumps(nano.ARCH)],
                          cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "system" in done.stderr, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["model.pt"]


def test_inspect_takes_the_good_file(tmp_path):
    (tmp_path / "nano.safetensors").write_bytes(GOOD)
    done = subprocess.run([DAVID, "inspect", tmp_path / "nano.safetensors"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "denoise" in done.stdout
