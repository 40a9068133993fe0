"""Ten minutes at twice the load that david sustains, then SIGTERM under load.

  python3 soak.py --david build/david --image PHOTO [--minutes 10] [--deadline-ms 200]
                  [-- OPTIONS OF serve]

Starts a daemon with a short queue, so that twice the load means refusals, not a longer queue;
every other client sends a deadline, which some of its requests miss. Fails (exit 1) where
memory grows by more than a tenth between a fifth of the time and its end, where /livez is not
200, where an answer is other than 200, 429, 503 or (with a deadline) 504, or where the daemon
does not drain and exit with 0.
"""
import argparse
import collections
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import requests

from load_test import Load


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def rss_bytes(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS:"))


def wait_ready(url, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(url + "/readyz", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    sys.exit("the daemon did not become ready")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--david", required=True)
    p.add_argument("--image", required=True)
    p.add_argument("--task", default="denoise")
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--models", default=str(pathlib.Path(__file__).resolve().parents[2] / "models"))
    p.add_argument("--deadline-ms", type=int, default=200)
    p.add_argument("--queue", type=int, default=8)
    p.add_argument("options", nargs="*")
    args = p.parse_args()
    url = f"http://127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as state, open(args.image, "rb") as f:
        process = subprocess.Popen([args.david, "serve", "--listen", url[7:], "--state", state, "--models", args.models,
                                    "--max-queue", str(args.queue), *args.options])
        try:
            wait_ready(url, process)
            # the daemon holds the queue and one batch: twice as many clients are twice its load
            load = Load(url, f.read(), args.task, 4 * args.queue, deadline_ms=args.deadline_ms)
            load.start()
            start, end = time.monotonic(), args.minutes * 60
            alive, rss, early = collections.Counter(), [], None
            while time.monotonic() - start < end and process.poll() is None:
                try:
                    status = requests.get(url + "/livez", timeout=5).status_code
                except requests.RequestException as e:
                    status = type(e).__name__
                alive[status] += 1
                rss.append(rss_bytes(process.pid))
                if early is None and time.monotonic() - start >= end / 5:
                    early = rss[-1]
                time.sleep(1)
            statuses, late = dict(load.statuses), rss[-1]
            process.send_signal(signal.SIGTERM)
            code = process.wait(90)
            load.finish()
        finally:
            if process.poll() is None:
                process.kill()
    ok = (code == 0 and set(alive) == {200} and set(statuses) <= {"200", "429", "503", "504"}
          and early is not None and late < 1.1 * early)
    print(json.dumps({"minutes": args.minutes, "statuses": statuses, "livez": {str(k): v for k, v in alive.items()},
                      "rss_early_bytes": early, "rss_late_bytes": late, "rss_peak_bytes": max(rss),
                      "exit": code, "ok": ok}))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
