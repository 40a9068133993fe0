"""Every allocation fails in turn: while the daemon restores an image, and in the commands. No process ends by it, nothing
leaks, no incomplete file is left, and the next request is served as before."""

import mmap
import os
import struct
import subprocess

import pytest
import requests

import nano
from daemon import DAVID, PATIENCE, encoded, image, png, wait_for

LIBRARY = os.environ["FAILING_ALLOC_LIBRARY"]
MOST = 3000  # allocations; far more than any of these makes


class Counter:
    """Says which allocation fails: shared with the process through a file."""

    def __init__(self, folder):
        self.path = folder / "counter"
        self.path.write_bytes(bytes(8))
        with open(self.path, "r+b") as f:
            self.memory = mmap.mmap(f.fileno(), 8)

    def environment(self, parses_json):
        spares = {"FAILING_ALLOC_SPARES": "libjansson"} if parses_json else {}
        return {"LD_PRELOAD": LIBRARY, "FAILING_ALLOC": str(self.path), **spares}

    def set(self, n):
        struct.pack_into("=Q", self.memory, 0, n)

    def has_failed(self):
        return struct.unpack_from("=Q", self.memory)[0] == 0


@pytest.fixture
def counter(tmp_path):
    return Counter(tmp_path)


MASK = encoded(image(24, 24).convert("L").point(lambda v: 255 if v > 128 else 0), "PNG")


def raw(d):
    return d.restore(png(24, 24), seed=5)


def form(d):
    return d.restore(None, task="inpaint", seed=5, samples=3, output="all",
                     files={"image": png(24, 24), "mask": MASK})


def models(d):
    return d.get("/v1/models")


@pytest.mark.parametrize("ask", [raw, form, models], ids=lambda f: f.__name__)
def test_a_daemon_outlives_every_allocation_that_fails(start, counter, ask):
    d = start(environment=counter.environment(ask is models))
    wanted, statuses = ask(d), set()
    assert wanted.status_code == 200
    contents = wanted.json() if ask is form else wanted.content
    for n in range(1, MOST):
        counter.set(n)
        try:
            answer = ask(d)
            status = answer.status_code
        except requests.RequestException:
            status = None  # the HTTP library could not even begin
        is_over = not counter.has_failed()
        counter.set(0)
        assert d.alive(), f"allocation {n}: {d.log()}"
        statuses.add(status)
        if status == 200:
            got = answer.json() if ask is form else answer.content
            if ask is form:
                got["request_id"] = contents["request_id"]
            assert got == contents, f"allocation {n} changed the answer"
        else:
            assert status in (None, 500, 503), f"allocation {n}: {status} {answer.text}"
        if is_over:
            break
    assert is_over and n > 3 and statuses & {500, 503, None}
    wait_for("memory given back", lambda: d.reserved() == d.idle)
    assert d.get("/readyz").status_code == 200
    assert d.stop() == 0


@pytest.mark.parametrize("command", ["restore", "degrade", "inspect", "convert"])
def test_a_command_fails_with_one_line_or_does_its_work(command, counter, tmp_path):
    """The first sixteen allocations, and then ever fewer of the others: each is a process of its own. A file that is there
    afterwards is whole, whatever failed after it."""
    model, photo, out = tmp_path / "nano.safetensors", tmp_path / "in.png", tmp_path / "out"
    model.write_bytes(nano.model(tasks=("denoise",)))
    photo.write_bytes(png(24, 24))
    args = {"restore": ["--model", model, "--seed", "5", "--dtype", "f32", photo, f"{out}.png"],
            "degrade": ["--task", "sr4", "--seed", "5", photo, f"{out}.png"],
            "inspect": ["--json", model],
            "convert": ["--task", "denoise", model, f"{out}.safetensors"]}[command]
    env, before, failed, n = {**os.environ, **counter.environment(True)}, set(tmp_path.iterdir()), 0, 0

    def run(nth):
        counter.set(nth)
        done = subprocess.run([DAVID, command, *map(str, args)], env=env, capture_output=True, timeout=PATIENCE)
        made = {p: p.read_bytes() for p in set(tmp_path.iterdir()) - before}
        for p in made:
            p.unlink()
        return done, made, nth and counter.has_failed()

    good, whole, _ = run(0)
    assert good.returncode == 0
    while True:
        n += 1 + n // 16
        done, made, has_failed = run(n)
        assert done.returncode in (0, 1), f"allocation {n}: {done.returncode} {done.stderr}"
        if done.returncode:
            failed += 1
            assert done.stderr.startswith(b"david") and done.stderr.count(b"\n") == 1, f"allocation {n}: {done.stderr}"
        assert made == whole or (done.returncode and not made), f"allocation {n} left {made.keys()}"
        if not has_failed:
            break
    assert done.returncode == 0 and done.stdout == good.stdout and failed > 3
