"""The daemon on several fake devices: an engine and a batcher each, on one queue, with the bytes
of one device.
"""

import concurrent.futures
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "service"))

from conftest import models, start  # noqa: F401, E402
from daemon import png  # noqa: E402


def engines(daemon):
    return [line["device"] for line in map(json.loads, daemon.log().splitlines()) if line["event"] == "engine"]


def restored(daemon, bodies):
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda i: daemon.restore(bodies[i], seed=i, output="mean", samples=3), range(len(bodies))))
    assert [a.status_code for a in answers] == [200] * len(bodies), daemon.log()
    return [a.content for a in answers]


def test_three_devices_give_the_bytes_of_one(start):
    bodies = [png(24 + 16 * (i % 4), 56, seed=i) for i in range(10)]
    one = start(dtype="bf16", max_batch=4, environment={"DAVID_FAKE_DEVICES": "1"})
    three = start(dtype="bf16", max_batch=4, environment={"DAVID_FAKE_DEVICES": "3"})
    assert engines(one) == [0] and engines(three) == [0, 1, 2]
    want = restored(one, bodies)
    for _ in range(2):
        assert restored(three, bodies) == want
    assert three.metric("david_rows_total") == 2 * one.metric("david_rows_total")
    assert three.reserved() == three.metric("david_memory_reserved_bytes") > one.reserved()  # one model per device
    assert one.stop() == 0 and three.stop() == 0


def test_no_more_devices_than_are_asked_for(start):
    daemon = start(devices=2, environment={"DAVID_FAKE_DEVICES": "3"})
    assert engines(daemon) == [0, 1]


def test_a_device_that_breaks_ends_them_all(start, tmp_path):
    broken = tmp_path / "broken"
    daemon = start(environment={"DAVID_FAKE_DEVICES": "2", "DAVID_FAKE_BREAK_FILE": str(broken)})
    assert daemon.restore(png(40, 40)).status_code == 200
    broken.touch()
    assert daemon.restore(png(40, 40)).status_code == 503
    assert daemon.process.wait(10) == 1, daemon.log()
