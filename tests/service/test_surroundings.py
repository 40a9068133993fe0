"""What surrounds the daemon: where its settings come from, the files it may open, its log, signals, and clients that misbehave
without sending anything wrong."""

import concurrent.futures
import fcntl
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import time

import pytest
import requests

import nano
from daemon import DAVID, Answer, encoded, image, png, wait_for

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("DAVID_")}


def settings(*flags, env=None, binary=DAVID, **more):
    done = subprocess.run([binary, "serve", "--print-config", "--json", *flags], env={**CLEAN, **(env or {})},
                          capture_output=True, text=True, timeout=60, **more)
    assert done.returncode == 0, done.stderr
    return {name: (s["value"], s["source"]) for name, s in json.loads(done.stdout).items()}


def test_every_setting_says_where_it_came_from(tmp_path):
    (tmp_path / "david.conf").write_text("max_queue = 1  # c\nmax_body = 2MiB\nmax_samples = 3\n")
    found = settings("--config", tmp_path / "david.conf", "--max-queue", "4", env={"DAVID_MAX_BODY": "5MiB", "DAVID_MAX_QUEUE": "6"})
    assert found["max_queue"] == ("4", "flag")
    assert found["max_body"] == ("5MiB", "environment")
    assert found["max_samples"] == ("3", "file")
    assert found["drain_timeout"] == ("30s", "default")
    assert found["threads"][1] == found["memory_budget"][1] == found["models"][1] == "machine"
    plain = subprocess.run([DAVID, "serve", "--print-config"], env=CLEAN, capture_output=True, text=True, timeout=60).stdout
    assert "listen = 127.0.0.1:8080  # default\n" in plain and len(plain.splitlines()) == len(found)


@pytest.mark.parametrize("flags", [["--json"], ["--max-queue"], ["--max-queue", "0"], ["--nonsense", "1"], ["--config", "/no/such"],
                                   ["positional"]], ids=" ".join)
def test_wrong_usage_is_2_and_one_line(flags):
    done = subprocess.run([DAVID, "serve", *flags], env=CLEAN, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr


def test_models_are_found_beside_the_binary_and_not_in_the_working_directory(tmp_path):
    """The installed layout: bin/david and share/david/models; what lies where the user happens to be is not served."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "share/david/models").mkdir(parents=True)
    (tmp_path / "here/models").mkdir(parents=True)
    shutil.copy(DAVID, tmp_path / "bin/david")
    installed = settings(binary=tmp_path / "bin/david", cwd=tmp_path / "here")
    assert pathlib.Path(installed["models"][0]).samefile(tmp_path / "share/david/models")
    built = pathlib.Path(settings(cwd=tmp_path / "here")["models"][0])
    assert (built / "default.safetensors").exists()


def test_waiting_threads_do_not_spin_for_long_unless_told(start):
    def spins(d):
        environment = pathlib.Path(f"/proc/{d.process.pid}/environ").read_bytes().split(b"\0")
        return next((e for e in environment if e.startswith((b"GOMP_SPINCOUNT=", b"OMP_WAIT_POLICY="))), None)

    d = start()
    assert 500 <= int(spins(d).removeprefix(b"GOMP_SPINCOUNT=")) <= 100000
    assert pathlib.Path(f"/proc/{d.process.pid}/comm").read_text() == "david\n"
    assert spins(start(environment={"OMP_WAIT_POLICY": "passive"})) == b"OMP_WAIT_POLICY=passive"


def limited_files(n):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))


def test_too_few_open_files_lower_the_default_and_refuse_a_wish(models, tmp_path):
    assert settings(preexec_fn=limited_files(300))["max_connections"] == ("172", "machine")
    done = subprocess.run([DAVID, "serve", "--listen", "127.0.0.1:0", "--models", models, "--state", tmp_path,
                           "--max-connections", "1000"], env=CLEAN, capture_output=True, text=True, timeout=60,
                          preexec_fn=limited_files(300))
    assert done.returncode == 2
    assert "max_connections = 1000" in done.stderr and "300" in done.stderr


def test_more_clients_than_connections_wait_and_are_served(start):
    """Connections beyond the limit are not accepted until others go; nothing breaks, and all are answered in the end."""
    d = start(max_connections=16)
    idle = [d.connect() for _ in range(64)]
    assert d.alive()
    for s in idle:
        s.close()
    wait_for("an answer", lambda: d.get("/livez").status_code == 200)
    with concurrent.futures.ThreadPoolExecutor(48) as pool:
        codes = list(pool.map(lambda i: d.restore(png(), seed=i).status_code, range(96)))
    assert set(codes) == {200}


def test_clients_that_send_their_headers_byte_by_byte_are_ended(start):
    d = start(max_connections=32, header_timeout="1s")
    before = d.metric("david_slow_clients_total")
    slow = [d.connect() for _ in range(24)]
    answers = []
    for s in slow:
        s.sendall(b"POST /restore?task=denoise HTTP/1.1\r\nX: ")
    for _ in range(3):
        for s in slow:
            try:
                s.sendall(b"y")
            except OSError:
                pass
        time.sleep(0.1)
    answers = [Answer(s).status for s in slow]
    assert set(answers) <= {408, None} and 408 in answers
    assert d.metric("david_slow_clients_total") == before + len(slow)
    assert d.restore(png()).status_code == 200


def test_a_client_that_does_not_take_its_answers_is_ended(start):
    d = start(body_timeout="1s")
    slow, size = d.metric("david_slow_clients_total"), len(d.get("/openapi.json").content)
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(("127.0.0.1", d.port))
    s.settimeout(5)
    try:  # more than the kernel takes on both sides
        s.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: d\r\n\r\n" * (12_000_000 // size))
    except OSError:
        pass
    wait_for("slow client", lambda: d.metric("david_slow_clients_total") == slow + 1)
    wait_for("its end", lambda: d.metric("david_connections") <= 1)
    s.close()


def test_a_half_closed_client_counts_as_gone(daemon):
    cancelled, reserved = daemon.metric("david_requests_cancelled_total"), daemon.idle
    wait_for("the last test's memory", lambda: daemon.reserved() == reserved)
    body = encoded(image(190, 190))
    with daemon.connect() as s:
        s.sendall((f"POST /restore?task=denoise&samples=16&output=mean HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n")
                  .encode() + body)
        wait_for("work", lambda: daemon.reserved() > reserved)
        s.shutdown(socket.SHUT_WR)
        assert Answer(s).status in {503, None}
    wait_for("cancellation", lambda: daemon.metric("david_requests_cancelled_total") == cancelled + 1)
    wait_for("memory back", lambda: daemon.reserved() == reserved)


def test_a_client_that_resets_in_the_middle_of_its_body_leaves_nothing(daemon):
    reserved, body = daemon.idle, png(100, 100)
    for cut in (1, len(body) // 2, len(body) - 1):
        s = daemon.connect()
        s.sendall(f"POST /restore?task=denoise HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:cut])
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
    wait_for("memory back", lambda: daemon.reserved() == reserved)
    wait_for("no request left", lambda: daemon.metric("david_requests_active") == 0)


@pytest.mark.parametrize("sent", ["in its headers", "in its body", "after an answer"])
def test_a_client_that_sends_and_closes_in_one_breath_is_missed_at_once(start, sent):
    """Its last bytes and its end come together, and the library sees the bytes alone: not the timeouts, all of an hour, end it."""
    d = start(header_timeout="1h", body_timeout="1h")
    body = png(60, 60)
    whole = f"POST /restore?task=denoise HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    request = {"in its headers": whole[:30], "in its body": whole[:200], "after an answer": b"GET /livez HTTP/1.1\r\nHost: d\r\n\r\nG"}[sent]
    for _ in range(8):
        s = d.connect()
        s.sendall(request)
        s.close()
    with d.connect() as s:  # half of a body, and still there
        s.sendall(whole[:-100])
        wait_for("the others' end", lambda: d.metric("david_connections") <= 2, 10)
        assert d.metric("david_requests_cancelled_total") == (8 if sent == "in its body" else 0)
        s.sendall(whole[-100:])
        assert Answer(s).status == 200
    wait_for("memory back", lambda: d.reserved() == d.idle)
    began = time.monotonic()
    assert d.stop() == 0 and time.monotonic() - began < 10


def test_an_old_client_is_answered_and_its_connection_closed(daemon):
    with daemon.connect() as s:
        s.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert Answer(s).status == 200
        assert s.recv(1) == b""


@pytest.mark.parametrize("log", ["full", "closed"])
def test_a_log_that_cannot_be_written_stops_nothing(start, log):
    if log == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    d = start(log=target)
    os.close(target)
    assert d.restore(png()).status_code == 200
    assert d.stop() == 0


def test_a_log_that_nobody_reads_stops_nothing_and_says_what_is_lost(start):
    """A full pipe: lines are lost and counted, and no thread waits for its reader."""
    reader, target = os.pipe()
    fcntl.fcntl(target, fcntl.F_SETPIPE_SZ, 8192)
    d = start(log=target, log_level="debug")
    os.close(target)
    for _ in range(120):
        assert d.get("/livez").status_code == 200
    assert d.restore(png()).status_code == 200
    lines = os.read(reader, 1 << 16)
    assert d.get("/livez").status_code == 200 and d.stop() == 0
    with os.fdopen(reader, "rb") as rest:
        events = [json.loads(line) for line in (lines + rest.read()).splitlines()]
    assert sum(e.get("lines", 0) for e in events if e["event"].startswith("log lines lost")) > 20
    assert events[-1]["event"] == "stopped"


def test_the_log_keeps_letters_beyond_ascii(start, tmp_path):
    folder = tmp_path / "modèles 図"
    folder.mkdir()
    (folder / "nano.safetensors").write_bytes(nano.model())
    (folder / "other.safetensors").write_bytes(b"no model")
    d = start(models=folder)
    events = [json.loads(line) for line in d.log().splitlines()]
    assert [e["file"] for e in events if e["event"] == "model refused"] == [f"{folder}/other.safetensors"]


def test_sighup_changes_nothing(start):
    d = start()
    d.process.send_signal(signal.SIGHUP)
    wait_for("a line in the log", lambda: "SIGHUP" in d.log())
    assert d.get("/readyz").status_code == 200 and d.restore(png()).status_code == 200
    assert d.stop() == 0


def test_sigterm_is_heard_while_models_are_loaded(start, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    body = nano.model()
    for i in range(60):
        (folder / f"m{i}.safetensors").write_bytes(body)
    (folder / "nano.safetensors").write_bytes(body)
    d = start(models=folder, wait=False)
    d.port = wait_for("listening socket", d.find_port)
    try:
        assert d.get("/livez").status_code == 200
        assert d.get("/readyz").status_code == 503
        refused = d.restore(png())
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
    except requests.ConnectionError:
        pytest.fail(d.log())
    d.process.send_signal(signal.SIGTERM)
    assert d.process.wait(30) == 0
    assert '"ready"' not in d.log()


def test_a_port_that_is_taken_is_1_and_named(daemon, models, tmp_path):
    done = subprocess.run([DAVID, "serve", "--listen", f"127.0.0.1:{daemon.port}", "--models", models, "--state", tmp_path,
                           "--default-model", "nano"], env=CLEAN, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and f"listen = 127.0.0.1:{daemon.port}" in done.stderr and "in use" in done.stderr
