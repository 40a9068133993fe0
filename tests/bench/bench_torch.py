"""Times `david bench` and the same network in PyTorch in one run, in which the two alternate.

  python bench_torch.py --david build/david [--arch ffhq256] [--batch 1,4] [--threads N] [--runs N]
                        [--dtype f32,bf16] [--compile] [--bare build/tests/bench/bare_conv]

Needs torch. --bare: the sum of oneDNN's convolutions, each timed alone, in the same run. Not
part of any test run. Writes one JSON object per line.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

import torch

from torch_unet import ARCHS, UNet


def david(args, batch, dtype, runs):
    out = subprocess.run(
        [args.david, "bench", "--arch", args.arch, "--batch", str(batch), "--dtype", dtype, "--runs", str(runs),
         "--threads", str(args.threads), "--size", f"{args.size}x{args.size}", "--json"],
        capture_output=True, check=True).stdout
    return json.loads(out)["results"][0]


def bare_ms(args, dtype):
    out = subprocess.run([args.bare, args.arch, dtype], capture_output=True, check=True).stdout
    return json.loads(out)["sum_ms"]


def torch_ms(net, batch, size, dtype, runs):
    x = torch.randn(batch, 3, size, size).to(dtype).contiguous(memory_format=torch.channels_last)
    t = torch.full((batch,), 999)
    times = []
    with torch.inference_mode():
        net(x, t)
        for _ in range(runs):
            start = time.perf_counter()
            net(x, t)
            times.append((time.perf_counter() - start) * 1000)
    return times


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--david", required=True)
    p.add_argument("--arch", default="ffhq256", choices=ARCHS)
    p.add_argument("--batch", default="1,4")
    p.add_argument("--dtype", default="f32")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--compile", action="store_true")
    p.add_argument("--bare", help="path of bare_conv")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = UNet(ARCHS[args.arch]).eval().to(memory_format=torch.channels_last)
    for name in args.dtype.split(","):
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[name]
        net = net.to(dtype)
        ways = {"eager": net}
        if args.compile:
            ways["compile"] = torch.compile(net)
        for batch in map(int, args.batch.split(",")):
            ours, bare, theirs = [], [], {w: [] for w in ways}
            for _ in range(args.rounds):
                row = david(args, batch, name, args.runs)
                ours.append(row["ms_per_image"])
                if args.bare:
                    bare.append(bare_ms(args, name))
                for way, model in ways.items():
                    theirs[way] += torch_ms(model, batch, args.size, dtype, args.runs)
            ms = statistics.median(ours)
            result = {"arch": args.arch, "dtype": name, "batch": batch, "size": args.size, "threads": args.threads,
                      "torch": torch.__version__, "david_ms_per_image": round(ms, 2),
                      "david_images_per_second": round(1000 / ms, 3), "david_peak_bytes": row["peak_bytes"],
                      "david_shares": row["shares"]}
            if bare:
                result["bare_convolutions_ms"] = round(statistics.median(bare), 2)
                result["david_to_bare"] = round(ms / statistics.median(bare), 3)
            for way in ways:
                theirs_ms = statistics.median(theirs[way]) / batch
                result[f"torch_{way}_ms_per_image"] = round(theirs_ms, 2)
                result[f"torch_{way}_to_david"] = round(theirs_ms / ms, 3)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
