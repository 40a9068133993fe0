"""Load on a running david: N clients at once for some seconds, or until a number of requests are
answered.

  python3 load_test.py --url http://127.0.0.1:8080 --image PHOTO [--task denoise] [--clients N]
                       [--seconds S | --requests N]

Writes one JSON object: requests/s, images/s, p50 and p99 in ms, the time of a request outside
compute, decode and encode (from Server-Timing; includes the wait in the queue), statuses,
mean batch size (from /metrics).
"""
import argparse
import collections
import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
import urllib.request


def metric_sums(url):
    text = urllib.request.urlopen(url + "/metrics", timeout=10).read().decode()
    return [sum(float(v) for v in re.findall(rf"^david_batch_size_{part}(?:{{[^}}]*}})? (\S+)$", text, re.M))
            for part in ("sum", "count")]


class Load:
    """Clients that post as fast as answers come, each on a connection of its own; a refused
    client waits for Retry-After. With a deadline every other client sends it."""

    def __init__(self, url, image, task, clients, requests=None, deadline_ms=None):
        self.deadline_ms = deadline_ms
        self.address, self.image, self.task = urllib.parse.urlsplit(url).netloc, image, task
        self.lock, self.stop, self.left = threading.Lock(), threading.Event(), requests
        self.times, self.outside, self.statuses = [], [], collections.Counter()
        self.threads = [threading.Thread(target=self.client, args=(i,), daemon=True) for i in range(clients)]

    def may_go_on(self):
        with self.lock:
            if self.left is not None:
                self.left -= 1
            return not self.stop.is_set() and (self.left is None or self.left >= 0)

    def connect(self):
        connection = http.client.HTTPConnection(self.address, timeout=300)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def client(self, number):
        connection, seed = None, number << 32
        deadline = f"&deadline_ms={self.deadline_ms}" if self.deadline_ms and number % 2 else ""
        while self.may_go_on():
            seed += 1
            start, wait = time.perf_counter(), 0
            try:
                connection = connection or self.connect()
                connection.request("POST", f"/restore?task={self.task}&seed={seed}{deadline}", self.image)
                answer = connection.getresponse()
                answer.read()
                status = str(answer.status)
                if status == "503":
                    wait = float(answer.headers.get("Retry-After", 0))
                if answer.will_close:
                    connection = None
            except (OSError, http.client.HTTPException) as e:
                status, wait, connection = type(e).__name__, 0.1, None
            ms = (time.perf_counter() - start) * 1000
            with self.lock:
                self.statuses[status] += 1
                if status == "200":
                    parts = dict(re.findall(r"(\w+);dur=([0-9.]+)", answer.headers["Server-Timing"]))
                    self.times.append(ms)
                    self.outside.append(ms - sum(float(parts[p]) for p in ("compute", "decode", "encode")))
            self.stop.wait(min(wait, 1))

    def start(self):
        for t in self.threads:
            t.start()

    def wait(self):
        """Until the requests are used up."""
        for t in self.threads:
            t.join()

    def finish(self):
        self.stop.set()
        for t in self.threads:
            t.join(310)


def percentile(values, p):
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(p * len(ordered)))], 3) if ordered else None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--url", default="http://127.0.0.1:8080")
    p.add_argument("--image", required=True)
    p.add_argument("--task", default="denoise")
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--seconds", type=float, default=30)
    p.add_argument("--requests", type=int)
    args = p.parse_args()
    with open(args.image, "rb") as f:
        load = Load(args.url, f.read(), args.task, args.clients, args.requests)
    before, start = metric_sums(args.url), time.perf_counter()
    load.start()
    if args.requests is None:
        time.sleep(args.seconds)
        load.finish()
    else:
        load.wait()
    seconds, after = time.perf_counter() - start, metric_sums(args.url)
    batches = after[1] - before[1]
    print(json.dumps({
        "clients": args.clients, "seconds": round(seconds, 2),
        "requests_per_second": round(sum(load.statuses.values()) / seconds, 3),
        "images_per_second": round(len(load.times) / seconds, 4),
        "p50_ms": percentile(load.times, 0.5), "p99_ms": percentile(load.times, 0.99),
        "outside_p50_ms": percentile(load.outside, 0.5), "outside_p99_ms": percentile(load.outside, 0.99),
        "statuses": dict(load.statuses),
        "mean_batch": (after[0] - before[0]) / batches if batches else None}))


if __name__ == "__main__":
    main()
