"""The image of the Dockerfile's `cpu` target builds on a bare Debian 12, serves, is healthy, is
scraped, and stops cleanly.

No Docker engine is needed: buildah with chroot isolation, on a base image made from a
debootstrap root ($DAVID_DEBOOTSTRAP, /tmp/david-debootstrap, or made here). The container
shares the host's network.
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
PHOTO = TOP / "deploy/photos/raccoon.sr4.png"
ENV = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}


BUILDAH = ["buildah", "--root", str(WORK / "storage"), "--runroot", str(WORK / "run")]


def buildah(*args, seconds=120):
    done = subprocess.run([*BUILDAH, *args], env=ENV, capture_output=True, text=True, timeout=seconds)
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


def below(pid):
    """A process and all its descendants."""
    found = []
    todo = [pid]
    while todo:
        found.append(todo.pop())
        for children in pathlib.Path(f"/proc/{found[-1]}/task").glob("*/children"):
            todo += map(int, children.read_text().split())
    return found


@pytest.fixture(scope="module")
def image():
    """Built from nothing and removed completely: vfs keeps every layer whole, some GB in all."""
    WORK.mkdir(parents=True, exist_ok=True)
    archive = WORK / "base.tar"
    try:
        subprocess.run(["tar", "-C", debootstrap_root(), "-cf", archive, "--exclude=./proc/*", "--exclude=./sys/*", "."], check=True)
        base = buildah("from", "scratch")
        buildah("add", base, archive, "/")
        archive.unlink()
        buildah("commit", "--rm", base, "localhost/david-base")
        buildah("build", "--format", "docker", "--build-arg", "BASE=localhost/david-base", "--target", "cpu",
                "-t", "localhost/david-test", TOP, seconds=1200)
        yield "localhost/david-test"
    finally:
        archive.unlink(missing_ok=True)
        subprocess.run([*BUILDAH, "rm", "--all"], env=ENV, capture_output=True)
        subprocess.run([*BUILDAH, "rmi", "--all", "--force"], env=ENV, capture_output=True)
        shutil.rmtree(WORK / "storage", ignore_errors=True)
        shutil.rmtree(WORK / "run", ignore_errors=True)


@pytest.fixture(scope="module")
def config(image):
    return json.loads(buildah("inspect", "--type", "image", image))


class Container:
    def __init__(self, image, config):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        oci = config["OCIv1"]["config"]
        self.env = ["--env", f"DAVID_LISTEN=127.0.0.1:{self.port}", "--env", "OMP_WAIT_POLICY=passive"]
        self.name = buildah("from", image)
        self.log = open(WORK / "container.log", "wb+")
        self.process = subprocess.Popen(
            [*BUILDAH, "run", *self.env, self.name, "--", *oci["Entrypoint"], *oci["Cmd"]],
            env=ENV, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
        )

    def daemon(self):
        """The daemon's process, found among buildah's descendants."""
        for pid in below(self.process.pid):
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "david":
                return pid
        raise AssertionError("no daemon in the container")

    def ready(self):
        if self.process.poll() is not None:
            self.log.seek(0)
            pytest.fail(f"the container stopped: {self.log.read().decode()[-4000:]}")
        return requests.get(self.url + "/readyz", timeout=5).status_code == 200

    def end(self):
        if self.process.poll() is None:
            for pid in below(self.process.pid):
                os.kill(pid, signal.SIGKILL)
            self.process.wait(30)
        self.log.close()


@pytest.fixture(scope="module")
def container(image, config):
    c = Container(image, config)
    try:
        wait_for("ready daemon", c.ready, 120)
        yield c
    finally:
        c.end()


def test_image_declares_what_an_operator_needs(config):
    oci = config["OCIv1"]["config"]
    assert oci["User"] == "david"
    assert oci["StopSignal"] == "SIGTERM"
    assert "8080/tcp" in oci["ExposedPorts"]
    assert "DAVID_LISTEN=0.0.0.0:8080" in oci["Env"]
    assert config["Docker"]["config"]["Healthcheck"]["Test"][0] == "CMD-SHELL"


def test_daemon_is_not_root(container):
    assert os.stat(f"/proc/{container.daemon()}").st_uid != 0


def test_image_has_what_it_runs_and_no_more(container):
    """The model and its licence are present; compilers, package lists and the source are not."""
    missing = buildah("run", container.name, "--", "sh", "-c",
                      "for f in /usr/local/bin/david /usr/local/share/david/models/default.safetensors; do test -f $f || echo $f; done")
    assert missing == ""
    extra = buildah("run", container.name, "--", "sh", "-c",
                    "for c in cc gcc cmake ninja; do command -v $c; done; ls -d /source /build /packages 2>/dev/null; ls /var/lib/apt/lists; true")
    assert extra == ""


def test_image_health_check_passes_while_ready_and_fails_without_a_daemon(container, config):
    kind, command = config["Docker"]["config"]["Healthcheck"]["Test"]
    assert kind == "CMD-SHELL"
    buildah("run", *container.env, container.name, "--", "sh", "-c", command)
    with pytest.raises(AssertionError):
        buildah("run", "--env", f"DAVID_LISTEN=127.0.0.1:{free_port()}", container.name, "--", "sh", "-c", command)


def test_restores_an_image(container):
    answer = requests.post(container.url + "/restore?task=sr4&seed=1", data=PHOTO.read_bytes(), timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "image/png"
    size = tuple(int.from_bytes(answer.content[i : i + 4], "big") for i in (16, 20))
    assert size == (416, 312)


def dashboard():
    """The title and every query of each panel of the dashboard."""
    board = json.loads((TOP / "deploy/grafana/dashboards/david.json").read_text())
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]


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
        for title, query in dashboard():
            wait_for(f"series of '{title}': {query}", lambda query=query: value(query) is not None, 60)
    finally:
        prometheus.terminate()
        prometheus.wait(30)


def test_sigterm_ends_it_with_success(container):
    os.kill(container.daemon(), signal.SIGTERM)
    assert container.process.wait(60) == 0
