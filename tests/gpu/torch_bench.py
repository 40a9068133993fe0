"""The networks of `gpu_bench network` in PyTorch on the same card: eager, and torch.compile
(max-autotune), channels-last.

  torch_bench.py peak
  torch_bench.py network --arch ffhq256 --batch 32 --dtype bf16 [--compile] [--runs 20]
                         [--device cuda] [--size 256]

One JSON object per line: the median time of a batch from one event to another, measured like
`gpu_bench`: over ten batches in a row.
"""
import argparse
import json
import pathlib
import statistics
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from torch_unet import ARCHS, UNet  # noqa: E402

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
GROUP = 10


def place_restorations(device):
    if device == "cuda":
        torch.cuda.synchronize()


def median_ms(run, runs, device):
    times = []
    for _ in range(runs):
        place_restorations(device)
        start = time.perf_counter()
        for _ in range(GROUP):
            run()
        place_restorations(device)
        times.append((time.perf_counter() - start) * 1000 / GROUP)
    return statistics.median(times)


def peak(args):
    side = args.side
    a, b = (torch.randn(side, side, device=args.device).bfloat16() for _ in range(2))
    torch.matmul(a, b)
    ms = median_ms(lambda: torch.matmul(a, b), args.runs, args.device)
    print(json.dumps({"what": "torch_peak", "side": side, "ms": ms, "tflops": 2 * side**3 / ms / 1e9, "torch": torch.__version__}))


def network(args):
    torch.manual_seed(0)
    dtype, size = DTYPES[args.dtype], args.size
    net = UNet(ARCHS[args.arch]).eval().to(args.device, dtype=dtype, memory_format=torch.channels_last)
    x = torch.randn(args.batch, 3, size, size).to(args.device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    t = torch.full((args.batch,), 999, device=args.device)
    start = time.perf_counter()
    model = torch.compile(net, mode="max-autotune") if args.compile else net
    with torch.inference_mode():
        for _ in range(3):
            y = model(x, t)
        place_restorations(args.device)
        load = time.perf_counter() - start
        if not torch.isfinite(y.float()).all():
            sys.exit("not finite")
        ms = median_ms(lambda: model(x, t), args.runs, args.device)
    used = torch.cuda.max_memory_reserved() if args.device == "cuda" else None
    print(json.dumps({"what": "torch", "way": "compile" if args.compile else "eager", "arch": args.arch, "dtype": args.dtype,
                      "batch": args.batch, "ms": ms, "images_per_second": 1000 * args.batch / ms, "memory_bytes": used,
                      "load_s": load, "torch": torch.__version__}))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("which", choices=["peak", "network"])
    p.add_argument("--arch", default="ffhq256", choices=ARCHS)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--dtype", default="bf16", choices=DTYPES)
    p.add_argument("--compile", action="store_true")
    p.add_argument("--runs", type=int, default=20)
    p.add_argument("--device", default="cuda")
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--side", type=int, default=8192)
    args = p.parse_args()
    torch.backends.cudnn.benchmark = True
    (peak if args.which == "peak" else network)(args)


if __name__ == "__main__":
    main()
