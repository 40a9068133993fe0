"""What an operator relies on: health, metrics, limits under load, cancelling, draining."""

import concurrent.futures
import json
import re
import signal
import time

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from daemon import BACKEND, Answer, png, wait_for

SLOW = dict(width=190, height=190, seed=3)  # with 16 samples: some hundred rows of work


def post(path, body, headers=""):
    return (f"POST {path} HTTP/1.1\r\nHost: d\r\n{headers}Content-Length: {len(body)}\r\n\r\n").encode() + body


def slow_request(samples=16):
    return post(f"/restore?task=denoise&samples={samples}&output=mean", png(**SLOW))


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/version", "/v1/models", "/openapi.json", "/metrics"])
def test_head_answers_as_get_without_a_body(daemon, path):
    full, head = daemon.get(path), requests.head(daemon.url(path))
    assert full.status_code == head.status_code == 200
    assert head.content == b"" and full.content
    assert head.headers["Content-Type"] == full.headers["Content-Type"]


@pytest.mark.parametrize("method, path, allowed", [
    ("PUT", "/restore", {"POST"}), ("GET", "/restore", {"POST"}), ("DELETE", "/restore", {"POST"}),
    ("POST", "/metrics", {"GET", "HEAD"}), ("PUT", "/livez", {"GET", "HEAD"}),
])
def test_another_method_is_405_with_allow(daemon, method, path, allowed):
    answer = requests.request(method, daemon.url(path), data=b"")
    assert answer.status_code == 405
    assert {m.strip() for m in answer.headers["Allow"].split(",")} >= allowed


def test_options_lists_the_methods(daemon):
    answer = requests.options(daemon.url("/restore"))
    assert answer.status_code == 405 and "POST" in answer.headers["Allow"]


def test_version_and_models_say_what_runs(daemon):
    version = daemon.get("/version").json()
    assert version["version"] and version["backend"] == BACKEND and version["dtype"] == "f32" and version["threads"] >= 1
    models = daemon.get("/v1/models").json()["models"]
    assert {m["name"] for m in models} == {"nano", "denoiser"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", m["digest"]) for m in models)


def test_openapi_is_json_and_describes_every_route_that_answers(daemon):
    document = daemon.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    for path, methods in document["paths"].items():
        if "get" in methods and "{" not in path:
            assert daemon.get(path).status_code == 200, path


def test_metrics_are_what_prometheus_reads(daemon):
    before = daemon.metric("david_http_requests_total", route="/restore", method="POST", code="200")
    observed = daemon.metric("david_request_duration_seconds_count")
    daemon.restore(png())
    text = daemon.get("/metrics")
    assert text.headers["Content-Type"].startswith("text/plain")
    families = {f.name: f for f in text_string_to_metric_families(text.text)}
    for name in ("david_http_requests", "david_request_duration_seconds", "david_queue_duration_seconds",
                 "david_compute_duration_seconds", "david_batch_size", "david_queue_depth", "david_queue_rows",
                 "david_requests_cancelled", "david_requests_rejected", "david_memory_reserved_bytes", "david_model_info",
                 "david_build_info", "process_resident_memory_bytes"):
        assert name in families or name + "_total" in families, name
    for name, family in families.items():
        assert family.documentation and family.type != "unknown", name
    assert daemon.metric("david_http_requests_total", route="/restore", method="POST", code="200") == before + 1
    assert daemon.metric("david_request_duration_seconds_count") == observed + 1
    assert {s.labels["reason"] for s in families["david_requests_rejected"].samples} == {
        "queue_full", "memory", "draining", "deadline"}


def test_log_is_json_lines_without_what_was_asked(daemon):
    daemon.restore(png(), headers={"X-Request-Id": "find-me"}, seed=1234567)
    line = wait_for("log line", lambda: next((l for l in daemon.log().splitlines() if "find-me" in l), None))
    for text in daemon.log().splitlines():
        json.loads(text)
    assert "1234567" not in line and "task=" not in line


REFUSED = [  # what is asked, the status by name, words of the detail in the log
    (dict(seed="hunter2"), "BAD_PARAMETER", "whole number from 0 to 2^64-1"),
    (dict(model="hunter2"), "UNKNOWN_MODEL", "/v1/models lists them"),
    (dict(hunter2="1"), "BAD_PARAMETER", "there is no parameter"),
    (dict(samples=7654321, output="mean"), "TOO_MANY_SAMPLES", "max_samples = 16"),
    (dict(sigma=0.7654321), "BAD_PARAMETER", "sigma = ..."),
    (dict(model="nano' hunter2"), "UNKNOWN_MODEL", "/v1/models lists them"),
]


@pytest.mark.parametrize("asked, status, words", REFUSED)
def test_the_log_says_why_a_request_is_refused_without_what_was_asked(daemon, asked, status, words):
    name = f"refused-{REFUSED.index((asked, status, words))}"
    answer = daemon.restore(png(), headers={"X-Request-Id": name}, **asked)
    assert answer.status_code >= 400
    line = wait_for("log line", lambda: next((l for l in daemon.log().splitlines() if name in l), None))
    event = json.loads(line)
    assert event["event"] == "request" and event["status"] == answer.status_code and event["ms"] >= 0
    assert event["error"] == status and words in event["detail"]
    assert "hunter2" not in line and "7654321" not in line


def test_a_failed_body_is_in_the_log_with_its_reason(daemon):
    for body, name, status in (b"no image", "not-read", "UNKNOWN_FORMAT"), (png(300, 300), "too-large", "TOO_MANY_PX"):
        daemon.restore(body, headers={"X-Request-Id": name})
        line = wait_for("log line", lambda: next((l for l in daemon.log().splitlines() if name in l), None))
        assert json.loads(line)["error"] == status and json.loads(line)["detail"]
    daemon.restore(png(), headers={"X-Request-Id": "all-well"})
    line = wait_for("log line", lambda: next((l for l in daemon.log().splitlines() if "all-well" in l), None))
    assert "error" not in json.loads(line) and "detail" not in json.loads(line)


def test_a_client_that_goes_away_is_counted_and_its_memory_comes_back(daemon):
    cancelled, reserved = daemon.metric("david_requests_cancelled_total"), daemon.idle
    wait_for("the last test's memory", lambda: daemon.reserved() == reserved)
    blocker, leaver = daemon.connect(), daemon.connect()
    blocker.sendall(slow_request())
    wait_for("work", lambda: daemon.reserved() > reserved)
    held = daemon.reserved()
    leaver.sendall(slow_request())
    wait_for("second request", lambda: daemon.reserved() > held)
    leaver.close()
    wait_for("cancellation", lambda: daemon.metric("david_requests_cancelled_total") == cancelled + 1)
    assert Answer(blocker).status == 200
    wait_for("memory back", lambda: daemon.reserved() == reserved)


def test_a_deadline_that_passes_is_504(daemon):
    reserved = daemon.idle  # not reserved(): the last test's request may still hold some
    rejected = daemon.metric("david_requests_rejected_total", reason="deadline")
    answer = daemon.restore(png(**SLOW), samples=16, output="mean", deadline_ms=1)
    assert answer.status_code == 504 and "deadline_ms" in answer.json()["detail"]
    assert daemon.metric("david_requests_rejected_total", reason="deadline") == rejected + 1
    wait_for("memory back", lambda: daemon.reserved() == reserved)


def test_a_full_queue_is_503_with_retry_after(start):
    d = start(max_queue=1)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: d.restore(png(**SLOW), samples=16, output="mean"), range(12)))
    codes = {a.status_code for a in answers}
    assert codes == {200, 503}
    refused = [a for a in answers if a.status_code == 503]
    assert all(int(a.headers["Retry-After"]) >= 1 and "max_queue" in a.json()["detail"] for a in refused)
    assert d.metric("david_requests_rejected_total", reason="queue_full") == len(refused)
    assert d.restore(png()).status_code == 200


def test_memory_that_is_taken_is_503_and_what_can_never_fit_is_422(start):
    d = start(memory_budget="64MiB", max_samples=4096, max_pixels=10**8)
    reserved = d.reserved()
    never = d.restore(png(300, 300), samples=4000, output="all")
    assert never.status_code == 422 and "memory_budget" in never.json()["detail"]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: d.restore(png(400, 400), samples=4, output="all"), range(24)))
    assert {a.status_code for a in answers} <= {200, 503}
    assert any(a.status_code == 200 for a in answers)
    for answer in answers:
        if answer.status_code == 503:
            assert "memory_budget" in answer.json()["detail"] and int(answer.headers["Retry-After"]) >= 1
    wait_for("memory back", lambda: d.reserved() == reserved)


def test_a_gray_image_that_gets_colours_is_admitted_as_a_coloured_one(start):
    d = start(memory_budget="64MiB", max_samples=4096)
    details = [d.restore(png(200, 200, mode), task="colorize", samples=4096, output="all").json()["detail"] for mode in ("L", "RGB")]
    gray, coloured = (int(re.match(r"needs (\d+) bytes", detail)[1]) for detail in details)
    assert 0.9 * coloured < gray <= coloured


def test_sigterm_answers_what_was_accepted_and_exits_with_success(start):
    d = start()
    reserved = d.reserved()
    accepted, idle = d.connect(), d.connect()
    accepted.sendall(slow_request())
    wait_for("accepted work", lambda: d.reserved() > reserved)
    d.process.send_signal(signal.SIGTERM)
    seen = set()

    def draining():
        idle.sendall(b"GET /readyz HTTP/1.1\r\nHost: d\r\n\r\n")
        seen.add(Answer(idle).status)
        return seen & {503, None}

    wait_for("readyz 503", draining)
    assert 503 in seen
    refused = d.connect()
    refused.sendall(post("/restore?task=denoise", png()))
    answer = Answer(refused)
    assert answer.status == 503 and answer.headers["Connection"].lower() == "close"
    assert Answer(accepted).status == 200
    assert d.process.wait(60) == 0


def test_new_work_is_served_for_drain_delay(start):
    d = start(drain_delay="3s")
    d.process.send_signal(signal.SIGTERM)
    wait_for("readyz 503", lambda: d.get("/readyz").status_code == 503)
    assert d.get("/livez").status_code == 200
    assert d.restore(png()).status_code == 200
    assert d.process.wait(60) == 0


def test_drain_timeout_answers_the_rest_503_and_exits_1(start):
    d = start(drain_timeout="10ms", max_samples=4096)
    reserved = d.reserved()
    waiting = d.connect()
    waiting.sendall(slow_request(samples=500))
    wait_for("accepted work", lambda: d.reserved() > reserved)
    d.process.send_signal(signal.SIGTERM)
    assert Answer(waiting).status == 503
    assert d.process.wait(60) == 1


def test_drain_timeout_answers_a_body_that_does_not_end(start):
    d = start(drain_timeout="10ms")
    with d.connect() as s:
        s.sendall(post("/restore?task=denoise", png())[:-20])
        wait_for("accepted work", lambda: d.metric("david_requests_active") == 1)
        d.process.send_signal(signal.SIGTERM)
        answer = Answer(s)
    assert answer.status == 503 and "shutting down" in json.loads(answer.body)["detail"]
    assert int(answer.headers["Retry-After"]) >= 1 and answer.headers["Connection"] == "close"
    assert d.process.wait(60) == 1


def test_a_second_signal_ends_it_at_once(start):
    d = start(drain_delay="1h")
    d.process.send_signal(signal.SIGTERM)
    wait_for("readyz 503", lambda: d.get("/readyz").status_code == 503)
    began = time.monotonic()
    d.process.send_signal(signal.SIGTERM)
    d.process.wait(60)
    assert d.process.returncode != 0 and time.monotonic() - began < 10


def test_many_clients_at_once_get_the_bytes_they_get_alone(daemon):
    bodies = [png(24 + 8 * (i % 4), 40, seed=i) for i in range(12)]
    alone = [daemon.restore(body, seed=i).content for i, body in enumerate(bodies)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda i: daemon.restore(bodies[i], seed=i).content, range(12)))
    assert together == alone
