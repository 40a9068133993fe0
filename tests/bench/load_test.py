"""Load on a running david: N clients at once for some seconds.

  python3 load_test.py --url http://127.0.0.1:8080 --image PHOTO [--task denoise] [--clients N] [--seconds S]
Writes one JSON object: requests/s, images/s, p50 and p99 in ms, statuses, mean batch size (from /metrics)."""
import argparse
import collections
import json
import re
import threading
import time

import requests


def metric_sums(url):
    text = requests.get(url + "/metrics", timeout=10).text
    return [sum(float(v) for v in re.findall(rf"^david_batch_size_{part}(?:{{[^}}]*}})? (\S+)$", text, re.M))
            for part in ("sum", "count")]


class Load:
    """Clients that post as fast as answers come, each with a connection of its own."""

    def __init__(self, url, image, task, clients):
        self.url, self.image, self.task = url + "/restore", image, task
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.times, self.statuses = [], collections.Counter()
        self.threads = [threading.Thread(target=self.client, args=(i,), daemon=True) for i in range(clients)]

    def client(self, number):
        session = requests.Session()
        seed = number << 32
        while not self.stop.is_set():
            seed += 1
            start, wait = time.monotonic(), 0
            try:
                answer = session.post(self.url, params={"task": self.task, "seed": seed}, data=self.image,
                                      timeout=300)
                status = str(answer.status_code)
                wait = float(answer.headers.get("Retry-After", 0)) if status == "503" else 0
            except requests.RequestException as e:
                status, wait = type(e).__name__, 0.1
            with self.lock:
                self.statuses[status] += 1
                if status == "200":
                    self.times.append(time.monotonic() - start)
            self.stop.wait(min(wait, 1))

    def start(self):
        for t in self.threads:
            t.start()

    def finish(self):
        self.stop.set()
        for t in self.threads:
            t.join(310)


def percentile(sorted_times, p):
    return sorted_times[min(len(sorted_times) - 1, int(p * len(sorted_times)))] * 1000 if sorted_times else None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--url", default="http://127.0.0.1:8080")
    p.add_argument("--image", required=True)
    p.add_argument("--task", default="denoise")
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--seconds", type=float, default=30)
    args = p.parse_args()
    with open(args.image, "rb") as f:
        load = Load(args.url, f.read(), args.task, args.clients)
    before, start = metric_sums(args.url), time.monotonic()
    load.start()
    time.sleep(args.seconds)
    load.finish()
    seconds, after = time.monotonic() - start, metric_sums(args.url)
    times, batches = sorted(load.times), after[1] - before[1]
    print(json.dumps({
        "clients": args.clients, "seconds": round(seconds, 2),
        "requests_per_second": sum(load.statuses.values()) / seconds,
        "images_per_second": len(times) / seconds,
        "p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99),
        "statuses": dict(load.statuses),
        "mean_batch": (after[0] - before[0]) / batches if batches else None}))


if __name__ == "__main__":
    main()
