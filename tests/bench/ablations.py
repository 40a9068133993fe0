"""Measures the effect of each option of a model file and of each objective in equal processor
time; writes a Markdown table.

  python ablations.py --david build/david --train DIR --test 'FOLDER/test_*.jpg' --out DIR
                      [--minutes 5] [--only NAME,..] [--images 'DIR/*.jpg']

Every row is a training run of its own, of one task (denoise, sigma 0.2), which ends after
--minutes of processor time (a row that continues another one uses as much again). Scores are
of the central 256 px of --count photographs that no run has used: PSNR of one sample and of
the mean of 8, and coverage of one deviation, from `david restore`; HaarPSI and GMSD of one
sample where piq is installed; seconds per image of the network from `david bench`. --images
writes OUT/images.png: for each row, one sample (and the mean of 8) of the first three
photographs of the pattern, with truth and measurement. The files of a run are kept in --out,
and a row whose files exist is not trained again. Needs numpy and Pillow (optionally piq with
torch); nothing else should run on the machine.
"""
import argparse
import json
import pathlib
import signal
import subprocess
import tempfile

import numpy as np
from PIL import Image, ImageDraw

from quality import cut, psnr, read_image, read_y, spread

PUBLISHED = {"image_size": 64, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2,2", "attention_resolutions": "16",
             "num_heads": 4, "num_head_channels": 32, "learn_sigma": True, "class_cond": False, "use_scale_shift_norm": True,
             "resblock_updown": True}
PATCH = {**PUBLISHED, "num_channels": 64, "channel_mult": "1,1,2,2", "attention_resolutions": "32,16", "patch": 2}
LINEAR = {**PATCH, "output": "linear"}
BESIDE = {**LINEAR, "noise": "channels"}
BARE = {**BESIDE, "attention_resolutions": "", "middle_attention": False}
PLAIN = {**BARE, "resblock_updown": False}
TOLD_T_ALONE = {**PLAIN, "noise": "added"}  # a prior
REGRESSION = ["--objective", "regression"]
PRIOR = ["--lr", "4e-4"]  # the prior of DAVI's row: trained as long as the others, not scored

# name, architecture, options of training, the row that it continues
ROWS = [
    ("published network, regression", PUBLISHED, [*REGRESSION], None),
    ("+ patch 2, 64 channels", PATCH, [*REGRESSION], None),
    ("+ linear output", LINEAR, [*REGRESSION], None),
    ("+ noise in channels (h 0: none)", BESIDE, [*REGRESSION, "--h", "0"], None),
    ("+ no attention", BARE, [*REGRESSION, "--h", "0"], None),
    ("+ plain resampling (long run's network)", PLAIN, [*REGRESSION, "--h", "0"], None),
    ("the same with squares (L2)", PLAIN, [*REGRESSION, "--l2", "--h", "0"], None),
    ("96 channels, three levels", {**PLAIN, "num_channels": 96, "channel_mult": "1,1,1"}, [*REGRESSION, "--h", "0"], None),
    ("then as long again of regression", PLAIN, [*REGRESSION, "--h", "0"], "+ plain resampling (long run's network)"),
    ("then as long again of energy", PLAIN, ["--objective", "energy", "--h", "1", "--lr", "5e-4"],
     "+ plain resampling (long run's network)"),
    ("then as long again of energy + regression", PLAIN, ["--objective", "energy,regression:0.5", "--h", "1", "--lr", "5e-4"],
     "+ plain resampling (long run's network)"),
    ("prior", TOLD_T_ALONE, PRIOR, None),
    ("then as long again of DAVI", PLAIN, ["--objective", "davi", "--h", "1", "--lr", "1e-4", "--prior", "prior"],
     "+ plain resampling (long run's network)"),
    ("then as long again of DAVI + regression", PLAIN,
     ["--objective", "davi,regression", "--h", "1", "--lr", "1e-4", "--prior", "prior"], "+ plain resampling (long run's network)"),
]


def file_of(args, name):
    return args.out / ("".join(c if c.isalnum() else "-" for c in name) + ".safetensors")


def train(args, name, arch, options, begin):
    """Trains until the processor time is used; then makes the model of the last checkpoint."""
    out = file_of(args, name)
    if out.exists():
        return out
    options = [file_of(args, o) if before == "--prior" else o for before, o in zip(["", *options], options)]
    task = [] if name == "prior" else ["--task", "denoise", "--sigma", "0.2"]
    command = [args.david, "train", "davi" if task else "prior", "--data", args.train, "--out", out, *task, "--batch", "16",
               "--size", "64", "--lr", "1e-3", "--warmup", "100", "--clip", "1", "--average-decay", "0.99", "--seed", "3",
               "--arch", json.dumps(arch), "--json", *(["--init", file_of(args, begin)] if begin else []), *options]
    run = subprocess.Popen([*map(str, command), "--steps", "1000000"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    steps = 0
    for line in run.stdout:
        told = json.loads(line)
        steps = told["step"]
        if told["processor_seconds"] >= 60 * args.minutes:
            run.send_signal(signal.SIGTERM)
            break
    run.stdout.read()
    if run.wait() != 0:
        raise SystemExit(f"{name}: training failed")
    subprocess.run([*map(str, command), "--resume", "--steps", "1"], check=True, capture_output=True)
    (out.with_suffix(".steps")).write_text(str(steps))
    return out


def perceptual(pairs):
    try:
        import piq
        import torch
    except ImportError:
        return float("nan"), float("nan")
    scores = []
    for truth, x in pairs:
        a, b = (torch.tensor((v + 1) / 2, dtype=torch.float32).permute(2, 0, 1)[None].clamp(0, 1) for v in (truth, x))
        scores.append((piq.haarpsi(b, a).item(), piq.gmsd(b, a).item()))
    return tuple(np.mean(scores, 0))


def restore(args, model, seed, y, out, *more):
    subprocess.run([args.david, "restore", "--task", "denoise", "--model", model, "--seed", str(seed), *more, y, out], check=True,
                   capture_output=True)
    return read_image(out)


def answers(args, model, spreads, y, folder, seed):
    """One sample, and the mean and the deviation of 8 where samples differ."""
    one = restore(args, model, seed, y, folder / "x.png")
    if not spreads:
        return one, one, None
    samples = np.stack([one, *(restore(args, model, 1000 * k + seed, y, folder / "x.png") for k in range(1, 8))])
    return one, samples.mean(0), samples.std(0, ddof=1)


def measure(args, photo, side, seed, folder):
    cut(photo, side, folder / "truth.png")
    y = folder / "y.safetensors"
    subprocess.run([args.david, "degrade", "--task", "denoise", "--seed", str(seed), folder / "truth.png", y], check=True,
                   capture_output=True)
    return read_image(folder / "truth.png"), y


def served(args, model, folder):
    subprocess.run([args.david, "convert", model, folder / "m.safetensors", "--tile", "128", "--overlap", "32", "--margin", "16"],
                   check=True, capture_output=True)
    return folder / "m.safetensors"


def spreads(args, model):
    told = json.loads(subprocess.run([args.david, "inspect", "--json", model], check=True, capture_output=True).stdout)
    return told["tasks"]["denoise"]["h"] > 0


def images(args, rows, side=192):
    """One line of images per row, below truth and measurement."""
    photos = spread(args.images, 3, side)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        lines = [("truth, measurement", [])]
        for i, photo in enumerate(photos):
            truth, y = measure(args, photo, side, i, folder)
            lines[0][1].extend([truth, read_y(y)])
        for label, model in rows:
            tiled = served(args, model, folder)
            lines.append((label + ": one sample, mean of 8", []))
            for i, photo in enumerate(photos):
                _, y = measure(args, photo, side, i, folder)
                lines[-1][1].extend(answers(args, tiled, spreads(args, model), y, folder, i)[:2])
    sheet = Image.new("RGB", (2 * len(photos) * side, len(lines) * (side + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, (label, row) in enumerate(lines):
        draw.text((4, k * (side + 16) + 2), label, "black")
        for i, x in enumerate(row):
            sheet.paste(Image.fromarray(np.rint((x.clip(-1, 1) + 1) * 127.5).astype(np.uint8)), (i * side, k * (side + 16) + 16))
    sheet.save(args.out / "images.png")


def score(args, model):
    one, mean, covered, pairs = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        tiled = served(args, model, folder)
        for i, photo in enumerate(spread(args.test, args.count, 256)):
            truth, y = measure(args, photo, 256, i, folder)
            x, average, deviation = answers(args, tiled, spreads(args, model), y, folder, i)
            one.append(psnr(truth, x))
            mean.append(psnr(truth, average))
            pairs.append((truth, x))
            if deviation is not None:
                covered.append(np.mean(abs(truth - average) <= deviation))
    timed = json.loads(subprocess.run([args.david, "bench", "--model", model, "--size", "256x256", "--batch", "1", "--json"], check=True,
                                      capture_output=True).stdout)["results"][0]["ms_per_image"]
    return np.mean(one), np.mean(mean), np.mean(covered) if covered else None, *perceptual(pairs), timed


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--david", required=True)
    p.add_argument("--train", required=True)
    p.add_argument("--test", required=True, help="pattern of the photographs to score")
    p.add_argument("--out", required=True, type=pathlib.Path)
    p.add_argument("--minutes", type=float, default=5)
    p.add_argument("--count", type=int, default=12)
    p.add_argument("--only", help="parts of the names of rows, with commas")
    p.add_argument("--images", help="pattern of the photographs to show")
    args = p.parse_args()
    args.out.mkdir(exist_ok=True, parents=True)
    print("| network and objective | steps | one sample, dB | mean of 8, dB | within one deviation | HaarPSI | GMSD | ms, 256 px |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for name, arch, options, begin in ROWS:
        if args.only and not any(part in name for part in args.only.split(",")):
            continue
        model = train(args, name, arch, options, begin)
        if options is PRIOR:
            continue
        rows.append((name, model))
        one, mean, covered, haar, gmsd, ms = score(args, model)
        steps = model.with_suffix(".steps").read_text()
        print(f"| {name} | {steps} | {one:.2f} | {mean:.2f} | {'–' if covered is None else f'{100 * covered:.0f} %'} | {haar:.4f} | "
              f"{gmsd:.4f} | {ms:.1f} |", flush=True)
    if args.images:
        images(args, rows)


if __name__ == "__main__":
    main()
