"""Fixtures of the training tests: small networks, small images, and `david train` as users run it."""
import fcntl
import json
import os
import pathlib
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

TREE = pathlib.Path(__file__).resolve().parents[2]
DAVID = os.environ.get("DAVID", str(TREE / "build" / "david"))
ARCH = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,1", "learn_sigma": True,
        "class_cond": False, "attention_resolutions": "8", "num_heads": 1, "num_head_channels": 32,
        "use_scale_shift_norm": True, "resblock_updown": True, "use_new_attention_order": False}


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: minutes; `ctest -L slow` runs it")


def run(*args, code=0, **kwargs):
    done = subprocess.run([DAVID, *map(str, args)], capture_output=True, timeout=120, **kwargs)
    assert done.returncode == code, (args, done.returncode, done.stderr.decode()[-800:])
    return done


def options(kind, data, out, prior=None, arch=ARCH, grown=None, **more):
    """The arguments of a run; a value of True is a flag, None leaves an option out. grown: the architecture of a restorer."""
    text = json.dumps(arch) if isinstance(arch, dict) else arch
    begin = {"arch": text}
    if kind == "davi":
        begin = {"task": "denoise", "prior": prior, "discriminator-width": 8, "arch": grown and json.dumps(grown)}
    args = ["train", kind, "--data", data, "--out", out]
    for name, value in {"batch": 4, "seed": 7, **begin, **{k.replace("_", "-"): v for k, v in more.items()}}.items():
        if value is not None:
            args += [f"--{name}"] if value is True else [f"--{name}", value]
    return [str(a) for a in args]


def train(kind, data, out, code=0, **more):
    return run(*options(kind, data, out, **more), code=code)


def start(args, **kwargs):
    """Starts a run. Its pipe is unbuffered, as communicate() drops buffered bytes, and holds one page, so that the run is at most
    a page of lines ahead."""
    went = subprocess.Popen([DAVID, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, **kwargs)
    fcntl.fcntl(went.stdout, fcntl.F_SETPIPE_SZ, 4096)
    return went


def lines(done):
    """The JSON lines of a run without the values that depend on the clock."""
    out = [json.loads(line) for line in done.stdout.splitlines()]
    out = [line for line in out if "validation" not in line]
    for line in out:
        assert line.pop("images_per_second") > 0 and line.pop("processor_seconds") >= 0
    return out


def validations(done):
    """The lines with the scores on the validation folder."""
    return [line for line in map(json.loads, done.stdout.splitlines()) if "validation" in line]


def tensors(path):
    """The F32 tensors of a model file by name."""
    data = pathlib.Path(path).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    out = {}
    for name, t in header_of(path).items():
        if name != "__metadata__" and t["dtype"] == "F32":
            first, end = t["data_offsets"]
            out[name] = np.frombuffer(data[begin + first:begin + end], "<f4").reshape(t["shape"])
    return out


def checkpoints(out):
    return sorted(pathlib.Path(f"{out}.checkpoints").glob("step-*"))


def leftovers(out):
    return [p.name for p in pathlib.Path(f"{out}.checkpoints").iterdir() if p.name.startswith(".")]


def result(out):
    """The results of a run: the bytes of its model and of its last checkpoint."""
    return pathlib.Path(out).read_bytes(), checkpoints(out)[-1].read_bytes()


def header_of(path):
    data = pathlib.Path(path).read_bytes()
    return json.loads(data[8:8 + int.from_bytes(data[:8], "little")])


def save(array, path):
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def tiles(sheet, side):
    """The images of a sheet: [row][column] of [side][side][3]."""
    grid = np.asarray(Image.open(sheet)).astype(int)
    step = side + 2
    return [[grid[y:y + side, x:x + side] for x in range(0, grid.shape[1], step)] for y in range(0, grid.shape[0], step)]


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Six images of waves and noise, 80 x 64 px."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(1)
    y, x = np.mgrid[0:64, 0:80]
    for i in range(6):
        waves = np.stack([128 + 100 * np.sin(x / (3 + i) + c) * np.cos(y / (4 + c)) for c in range(3)], -1)
        save((waves + draw.normal(0, 8, waves.shape)).clip(0, 255), folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def prior(tmp_path_factory, photos):
    path = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    train("prior", photos, path, steps=20)
    return path


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.communicate()
