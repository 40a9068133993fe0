"""The daemon under test and its clients. Every wait is for a condition, with a limit that only a fault reaches."""

import io
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import requests
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

DAVID = os.environ.get("DAVID", "build/david")
BACKEND = os.environ.get("DAVID_TEST_BACKEND", "cpu")  # what the daemons compute on
PATIENCE = 60  # seconds; sanitizer builds on two busy cores are slow


def wait_for(what, condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        threading.Event().wait(0.01)
    raise AssertionError(f"no {what} within {seconds} s")


class Daemon:
    """`david serve` on a port of the kernel's choice, with settings as DAVID_* variables. `log`: a file descriptor instead of
    a file; `environment`: more variables."""

    def __init__(self, folder, models, **settings):
        self.log_path = pathlib.Path(folder) / "david.log"
        env = {k: v for k, v in os.environ.items() if not k.startswith("DAVID_")}
        env.update(settings.pop("environment", {}))
        target = settings.pop("log", None)
        # Two threads, a small budget that does not depend on the machine, f32 so that bytes are comparable everywhere.
        chosen = dict(listen="127.0.0.1:0", models=models, state=pathlib.Path(folder) / "state", dtype="f32",
                      memory_budget="1GiB", default_model="nano")
        if BACKEND != "cpu":
            chosen["backend"] = BACKEND
        chosen.update(settings)
        env.update({f"DAVID_{name.upper()}": str(value) for name, value in chosen.items()})
        with open(self.log_path, "wb") as log:
            target = log if target is None else target
            self.process = subprocess.Popen([DAVID, "serve"], env=env, stdin=subprocess.DEVNULL, stdout=target, stderr=target)
        self.port = None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def alive(self):
        return self.process.poll() is None

    def find_port(self):
        assert self.alive(), f"the daemon stopped with {self.process.returncode}:\n{self.log()}"
        inodes = set()
        for fd in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(fd)))
            except FileNotFoundError:
                pass
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
            field = line.split()
            if field[3] == "0A" and field[9] in inodes:
                return int(field[1].split(":")[1], 16)
        return None

    def start(self):
        self.port = wait_for("listening socket", self.find_port)
        wait_for("readiness", lambda: self.alive() and self.get("/readyz").status_code == 200)
        self.idle = self.reserved()  # what is reserved while nobody asks for anything
        return self

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path, **more):
        return requests.get(self.url(path), timeout=PATIENCE, **more)

    def restore(self, body, headers=None, files=None, data=None, **parameters):
        parameters.setdefault("task", "denoise")
        if files is None:
            data, headers = body, {"Content-Type": "application/octet-stream", **(headers or {})}
        query = {name: value for name, value in parameters.items() if value is not None}
        return requests.post(self.url("/restore"), params=query, data=data, files=files, headers=headers, timeout=PATIENCE)

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def metric(self, name, **labels):
        """The sum of the samples of this name whose labels include these."""
        total = 0.0
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    def reserved(self):
        return self.metric("david_memory_reserved_bytes")

    def stop(self):
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


class Answer:
    """A response read from a raw socket; status None where the peer closed without an answer. `rest`: bytes of the next one."""

    def __init__(self, sock, rest=b"", is_head=False):
        data = rest
        try:
            while b"\r\n\r\n" not in data:
                chunk = sock.recv(65536)
                if not chunk:
                    break
                data += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
        head, _, self.rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        match = re.match(r"HTTP/1\.[01] (\d{3})", lines[0])
        self.status = int(match[1]) if match else None
        self.headers = requests.structures.CaseInsensitiveDict(
            line.split(": ", 1) for line in lines[1:] if ": " in line)
        self.body = self.rest
        length = 0 if is_head else int(self.headers.get("Content-Length", 0))
        while len(self.body) < length:
            chunk = sock.recv(65536)
            if not chunk:
                break
            self.body += chunk
        self.body, self.rest = self.body[:length], self.body[length:]


def image(width=32, height=32, mode="RGB", seed=0):
    """A smooth image with noise, as a PIL image."""
    r = np.random.default_rng(seed)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    y, x = np.mgrid[0:height, 0:width]
    base = 127 + 60 * np.sin(x / 7 + seed)[..., None] + 40 * np.cos(y / 5)[..., None] + 10 * np.arange(channels)
    pixels = np.clip(base + r.normal(0, 8, (height, width, channels)), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode)


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(*args, **more):
    return encoded(image(*args, **more))


def decoded(body):
    image = Image.open(io.BytesIO(body))
    image.load()
    return image
