"""The image of the Dockerfile's `cpu` target builds on a bare Debian 12, serves, is healthy, is scraped, and stops cleanly.

No Docker engine is needed: buildah with chroot isolation, on a base image made from a debootstrap root
($DAVID_DEBOOTSTRAP, /tmp/david-debootstrap, or made here). The container shares the host's network.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
import requests

TOP = pathlib.Path(__file__).resolve().parents[2]
WORK = pathlib.Path(os.environ.get("DAVID_WORK", "/tmp/david-deploy-test"))
PHOTO = TOP / "deploy/photos/kitten.sr4.png"
ENV = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}


def buildah(*args):
    command = ["buildah", "--root", WORK / "storage", "--runroot", WORK / "run", *args]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, f"buildah {args[0]}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except requests.ConnectionError:
            pass
        threading.Event().wait(0.05)
    pytest.fail(f"no {what} within {seconds} s")


def debootstrap_root():
    for root in (os.environ.get("DAVID_DEBOOTSTRAP"), "/tmp/david-debootstrap", WORK / "debootstrap"):
        if root and pathlib.Path(root, "etc/debian_version").exists():
            return root
    part = WORK / "debootstrap.part"
    shutil.rmtree(part, ignore_errors=True)
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", part], check=True, stdout=subprocess.DEVNULL)
    return part.rename(WORK / "debootstrap")


@pytest.fixture(scope="module")
def image():
    WORK.mkdir(parents=True, exist_ok=True)
    base = buildah("from", "scratch")
    archive = WORK / "base.tar"
    subprocess.run(["tar", "-C", debootstrap_root(), "-cf", archive, "--exclude=./proc/*", "--exclude=./sys/*", "."], check=True)
    buildah("add", base, archive, "/")
    archive.unlink()
    buildah("commit", "--rm", base, "localhost/david-base")
    buildah("build", "--format", "docker", "--build-arg", "BASE=localhost/david-base", "--target", "cpu", "-t", "localhost/david-test", TOP)
    yield "localhost/david-test"
    buildah("rm", "--all")
    buildah("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def config(image):
    return json.loads(buildah("inspect", "--type", "image", image))


class Container:
    def __init__(self, image, config):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        oci = config["OCIv1"]["config"]
        self.name = buildah("from", image)
        self.log = open(WORK / "container.log", "wb+")
        self.process = subprocess.Popen(
            ["buildah", "--root", WORK / "storage", "--runroot", WORK / "run", "run"]
            + ["--env", f"DAVID_LISTEN=127.0.0.1:{self.port}", self.name, "--", *oci["Entrypoint"], *oci["Cmd"]],
            env=ENV, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
        )

    def daemon(self):
        """The daemon's process, found below buildah's."""
        todo = [self.process.pid]
        while todo:
            pid = todo.pop()
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "david":
                return pid
            for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
        raise AssertionError("no daemon in the container")

    def ready(self):
        if self.process.poll() is not None:
            self.log.seek(0)
            pytest.fail(f"the container stopped: {self.log.read().decode()[-4000:]}")
        return requests.get(self.url + "/readyz", timeout=5).status_code == 200


@pytest.fixture(scope="module")
def container(image, config):
    c = Container(image, config)
    wait_for("ready daemon", c.ready, 120)
    yield c
    if c.process.poll() is None:
        c.process.kill()
    c.log.close()


def test_image_declares_what_an_operator_needs(config):
    oci = config["OCIv1"]["config"]
    assert oci["User"] == "david"
    assert oci["StopSignal"] == "SIGTERM"
    assert "8080/tcp" in oci["ExposedPorts"]
    assert "DAVID_LISTEN=0.0.0.0:8080" in oci["Env"]
    assert "/readyz" in " ".join(config["Docker"]["config"]["Healthcheck"]["Test"])


def test_daemon_is_not_root(container):
    assert os.stat(f"/proc/{container.daemon()}").st_uid != 0


def test_image_health_check_passes(container):
    done = buildah("run", container.name, "--", "curl", "-fsS", container.url + "/readyz")
    assert done is not None


def test_restores_a_picture(container):
    answer = requests.post(container.url + "/restore?task=sr4&seed=1", data=PHOTO.read_bytes(), timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "image/png"
    size = tuple(int.from_bytes(answer.content[i : i + 4], "big") for i in (16, 20))
    assert size == (384, 288)


def test_prometheus_scrapes_it(container):
    config = WORK / "prometheus.yml"
    shutil.copy(TOP / "deploy/prometheus/rules.yml", WORK / "rules.yml")
    text = (TOP / "deploy/prometheus/prometheus.yml").read_text()
    config.write_text(text.replace("david-daemon:8080", f"127.0.0.1:{container.port}").replace("15s", "1s"))
    data = WORK / "prometheus"
    shutil.rmtree(data, ignore_errors=True)
    port = free_port()
    prometheus = subprocess.Popen(
        ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )

    def value(query):
        answer = requests.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=5)
        found = answer.json()["data"]["result"] if answer.ok else []
        return float(found[0]["value"][1]) if found else None

    try:
        wait_for("up == 1", lambda: value('up{job="david"}') == 1, 60)
        wait_for("counted restoration", lambda: value('david_http_requests_total{route="/restore",code="200"}') == 1, 60)
        rules = requests.get(f"http://127.0.0.1:{port}/api/v1/rules", timeout=5).json()
        health = [rule["health"] for group in rules["data"]["groups"] for rule in group["rules"]]
        assert health and set(health) <= {"ok", "unknown"}
    finally:
        prometheus.terminate()
        prometheus.wait(30)


def test_sigterm_ends_it_with_success(container):
    os.kill(container.daemon(), signal.SIGTERM)
    assert container.process.wait(60) == 0
