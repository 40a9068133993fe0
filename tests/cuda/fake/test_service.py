"""The real daemon with the CUDA plugin over the fake device (fake.h): its reports about the
device, and its behaviour when the device breaks.
"""

import concurrent.futures
import json
import os
import pathlib
import sys
import threading
import time

import numpy as np
import requests

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "service"))

import nano  # noqa: E402
from conftest import models, start  # noqa: F401, E402
from daemon import decoded, png, wait_for  # noqa: E402

NVML = os.environ["DAVID_FAKE_NVML"]  # folder of a libnvidia-ml.so.1
REAL = os.environ["DAVID_REAL"]  # the program with the real plugin, or none, beside it
MIB = 1 << 20


def lines(daemon, event):
    return [l for l in map(json.loads, daemon.log().splitlines()) if l["event"] == event]


def gauges(daemon):
    return [l for l in daemon.get("/metrics").text.splitlines() if l.startswith("david_gpu_")]


def test_restores_as_the_cpu_does_and_says_what_it_runs_on(start):
    gpu, cpu = start(), start(backend="cpu")
    version = gpu.get("/version").json()
    assert (version["backend"], version["isa"]) == ("cuda", "sm_90")
    assert gpu.metric("david_build_info", backend="cuda", isa="sm_90") == 1
    for task in ("denoise", "sr4", "colorize"):
        a, b = (decoded(d.restore(png(50, 40), task=task, seed=3).content) for d in (gpu, cpu))
        off = np.abs(np.asarray(a, int) - np.asarray(b, int)).max()
        assert off <= 1, f"{task}: {off} of 255"


def test_bf16_gives_the_same_bytes_alone_and_among_others(start):
    d = start(dtype="bf16", max_batch=8)
    bodies = [png(24 + 16 * (i % 3), 40, seed=i) for i in range(8)]
    alone = [d.restore(body, seed=i).content for i, body in enumerate(bodies)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: d.restore(bodies[i], seed=i).content, range(8)))
    assert together == alone


def test_no_management_library_is_one_line_and_no_gauges(start):
    d = start()
    assert gauges(d) == []
    said = lines(d, "no gauges of the device")
    assert len(said) == 1 and "libnvidia-ml.so.1" in said[0]["detail"]


def test_gauges_are_the_management_librarys(start):
    d = start(environment={"LD_LIBRARY_PATH": NVML})
    assert sorted(gauges(d)) == [
        'david_gpu_memory_total_bytes{gpu="0",name="fake device 0"} 85899345920',
        'david_gpu_memory_used_bytes{gpu="0",name="fake device 0"} 12345678912',
        'david_gpu_power_watts{gpu="0",name="fake device 0"} 412.345',
        'david_gpu_utilization_ratio{gpu="0",name="fake device 0"} 0.37',
    ]


def test_a_broken_device_answers_503_everywhere_and_ends_the_process_with_1(start, tmp_path):
    breaker = tmp_path / "break"
    d = start(environment={"DAVID_FAKE_BREAK_FILE": str(breaker)}, max_batch=2, max_samples=4096, memory_budget="4GiB")
    answers, seen = [], {}

    def client(i):
        answers.append(d.restore(png(100, 100, seed=i), samples=40, output="mean").status_code)

    clients = [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for c in clients:
        c.start()
    wait_for("waiting requests", lambda: d.metric("david_queue_depth") >= 4)
    began = time.monotonic()
    breaker.touch()
    while d.alive():
        for path in ("/readyz", "/livez", "/healthz"):
            try:
                answer = d.get(path)
                if answer.status_code != 200:
                    seen[path] = answer.status_code, answer.json()["detail"]
            except requests.ConnectionError:
                pass
        assert time.monotonic() < began + 20
    took = time.monotonic() - began
    for c in clients:
        c.join()
    assert {path: code for path, (code, _) in seen.items()} == {"/readyz": 503, "/livez": 503, "/healthz": 503}
    assert all("device has failed" in detail for _, detail in seen.values())
    assert answers == [503] * 6
    assert d.process.returncode == 1 and took < 5
    assert len(lines(d, "batch failed")) == 1 and "cudaErrorIllegalAddress" in lines(d, "batch failed")[0]["detail"]


def test_little_memory_is_a_smaller_batch_and_too_little_a_clear_refusal(start, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/nano.safetensors").write_bytes(nano.model())

    def with_memory(mib, **more):
        return start(max_batch=32, models=tmp_path / "models", environment={"DAVID_FAKE_MEMORY": str(mib * MIB)}, **more)

    whole = with_memory(512)
    assert lines(whole, "model loaded")[0]["rows"] == 32
    body = png(90, 70)
    expected = whole.restore(body, seed=5).content
    for mib in (8, 20):  # with 20 the program of 32 rows fits, but not the rest
        small = with_memory(mib)
        assert 1 <= lines(small, "model loaded")[0]["rows"] < 32
        assert small.restore(body, seed=5).content == expected
        assert small.stop() == 0
    none = with_memory(1, wait=False)
    assert none.process.wait(60) == 1
    assert "default_model = nano" in lines(none, "cannot serve")[0]["detail"]
    assert "out of memory" in lines(none, "cannot serve")[0]["detail"]


def test_every_device_computes(start, tmp_path):
    def replays(clients):
        """The count of each device, over the life of a daemon that served so many requests at
        once."""
        tell = tmp_path / f"tell-{clients}"
        d = start(max_batch=2, environment={"DAVID_FAKE_DEVICES": "2", "DAVID_FAKE_TELL_FILE": str(tell)})
        if clients:
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                answers = list(pool.map(lambda i: d.restore(png(64, 64, seed=i), samples=4, output="mean"), range(clients)))
            assert [a.status_code for a in answers] == [200] * clients
        assert d.stop() == 0
        return [int(line.split()[1]) for line in tell.read_text().splitlines()]

    idle, busy = replays(0), replays(6)
    assert len(idle) == len(busy) == 2 and idle[0] == idle[1]
    assert all(b > i for i, b in zip(idle, busy)), (idle, busy)


def test_without_a_driver_auto_serves_on_the_cpu_with_one_line_and_cuda_is_refused(start):
    d = start(backend="auto", environment={"DAVID_FAKE_DEVICES": "0"})
    (line,) = lines(d, "engine")
    assert line["backend"] == "cpu" and "not cuda: no GPU can be used: no CUDA-capable device is detected" in line["reason"]
    assert d.restore(png()).status_code == 200
    refused = start(wait=False, environment={"DAVID_FAKE_DEVICES": "0"})
    assert refused.process.wait(60) == 2
    assert "no CUDA-capable device" in lines(refused, "cannot serve")[0]["detail"]


def test_the_real_program_serves_on_the_cpu_where_there_is_no_driver(start, monkeypatch):
    if pathlib.Path("/proc/driver/nvidia/version").exists():
        return  # here one is installed
    monkeypatch.setattr("daemon.DAVID", REAL)
    d = start(backend="auto")
    (line,) = lines(d, "engine")
    assert line["backend"] == "cpu" and "; not cuda: " in line["reason"]
    assert d.restore(png()).status_code == 200
