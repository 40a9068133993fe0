"""Compares a model with classical methods on the same measurements of the same photographs;
writes a Markdown table.

  python quality.py --david build/david --test 'FOLDER/test_*.jpg' --tune 'FOLDER/train_*.jpg'
                    [--count 48] [--tune-count 12]

Each photograph is cropped to its central 256 px square (--size) and degraded by `david
degrade` (float, nothing clipped; image i has seed N + i). The model's answers come from
`david restore`: one sample, and the mean of --samples. The classical methods:

  denoise  non-local means on RGB; searched: strength, patch, distance, and whether the variance of
           the noise is subtracted
  sr4      bicubic, after a Gaussian smoothing of the measurement; searched: its width, including 0
  deblur   Wiener filter, after correcting the measurement's dark edges (zeros beyond them are part
           of `deblur`); searched: k and p of the noise-to-signal ratio k |f|^p

Searched means: the setting with the best mean PSNR over the --tune photographs, none of which
is in the test. Scores are of 8-bit images, as `david eval --help` defines them. Needs numpy,
scipy, Pillow and scikit-image; not part of any test run.
"""
import argparse
import glob
import itertools
import json
import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image
from scipy.fft import fftfreq, irfft2, rfft2, rfftfreq
from scipy.ndimage import convolve1d, gaussian_filter
from skimage.restoration import denoise_nl_means

SIGMA = {"denoise": 0.2, "sr4": 0.05, "deblur": 0.05}
METHODS = {"denoise": "non-local means", "sr4": "bicubic", "deblur": "Wiener"}


def read_y(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    t = json.loads(data[8:8 + size])["y"]
    raw = data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]
    return np.frombuffer(raw, "<f4").reshape(t["shape"])[0].transpose(1, 2, 0).astype(np.float64)


def read_image(path):
    return np.asarray(Image.open(path).convert("RGB")) / 127.5 - 1


def rounded(x):
    """Rounded as an image of 8 bits."""
    return np.rint((x.clip(-1, 1) + 1) * 127.5) / 127.5 - 1


def non_local_means(y, strength, patch, distance, takes_off):
    return denoise_nl_means(y, h=strength * SIGMA["denoise"], sigma=SIGMA["denoise"] if takes_off else 0, patch_size=patch,
                            patch_distance=distance, fast_mode=True, channel_axis=-1, preserve_range=True)


def bicubic(y, width):
    h, w, _ = y.shape
    if width:
        y = gaussian_filter(y, (width, width, 0), mode="nearest")
    planes = [Image.fromarray(y[..., c].astype(np.float32)).resize((4 * w, 4 * h), Image.BICUBIC) for c in range(3)]
    return np.stack([np.asarray(p) for p in planes], -1).astype(np.float64)


def wiener(y, k, power):
    h, w, _ = y.shape
    pad = 32
    taps = np.exp(-np.arange(-30, 31) ** 2 / 18.0)
    taps /= taps.sum()
    # Beyond the edge there are zeros: divides by the part of the kernel's weight that is inside.
    rows, columns = (convolve1d(np.ones(n), taps, mode="constant") for n in (h, w))
    y = np.pad(y / (rows[:, None] * columns)[..., None], ((pad, pad), (pad, pad), (0, 0)), "symmetric")
    spot = np.zeros(y.shape[:2])
    spot[0, 0] = 1
    blur = rfft2(convolve1d(convolve1d(spot, taps, 0, mode="wrap"), taps, 1, mode="wrap"))
    f = np.hypot(fftfreq(y.shape[0])[:, None], rfftfreq(y.shape[1]))
    gain = blur.conj() / (abs(blur) ** 2 + k * (f / 0.1) ** power)
    mean = y.mean((0, 1))
    x = irfft2(rfft2(y - mean, axes=(0, 1)) * gain[..., None], y.shape[:2], axes=(0, 1)) + mean
    return x[pad:pad + h, pad:pad + w]


SEARCH = {
    "denoise": (non_local_means, itertools.product((0.3, 0.4, 0.5, 0.6, 0.8), (3, 5, 7), (4, 6, 9), (True, False))),
    "sr4": (bicubic, ((w,) for w in (0, 0.3, 0.4, 0.5, 0.6, 0.8))),
    "deblur": (wiener, itertools.product((1e-4, 3e-4, 1e-3, 3e-3, 6e-3, 0.01, 0.02, 0.03, 0.06, 0.1), (0, 1, 2, 3))),
}


def psnr(a, b):
    return 20 * np.log10(2 / np.sqrt(np.mean((a - b) ** 2)))


def ssim(a, b):
    w = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w /= w.sum()

    def blur(v):
        return convolve1d(convolve1d(v, w, 0), w, 1)[5:-5, 5:-5]

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.02**2, 0.06**2
    return np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


def cut(path, side, out):
    image = Image.open(path).convert("RGB")
    x, y = (image.width - side) // 2, (image.height - side) // 2
    image.crop((x, y, x + side, y + side)).save(out)


def spread(pattern, count, side):
    """`count` photographs that contain such a square, evenly spread over the names in order."""
    names = [n for n in sorted(glob.glob(pattern)) if min(Image.open(n).size) >= side]
    if len(names) < count:
        raise SystemExit(f"{pattern}: {len(names)} photographs of at least {side} px, {count} are needed")
    return [names[i * len(names) // count] for i in range(count)]


def measure(args, name, task, seed, folder):
    truth, y = folder / "truth.png", folder / "y.safetensors"
    cut(name, args.size, truth)
    subprocess.run([args.david, "degrade", "--task", task, "--seed", str(seed), truth, y], check=True, capture_output=True)
    return read_image(truth), read_y(y)


def tune(args, task, folder):
    method, settings = SEARCH[task]
    settings = list(settings)
    sums = np.zeros(len(settings))
    for i, name in enumerate(spread(args.tune, args.tune_count, args.size)):
        truth, y = measure(args, name, task, args.seed + 10000 + i, folder)
        sums += [psnr(truth, rounded(method(y, *s))) for s in settings]
    best = settings[int(np.argmax(sums))]
    return (lambda y: method(y, *best)), best


def restored(args, task, seed, folder, *more):
    out = folder / "restored.png"
    subprocess.run([args.david, "restore", "--task", task, "--model", args.model, "--seed", str(seed), *more,
                    folder / "y.safetensors", out], check=True, capture_output=True)
    return read_image(out)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--david", required=True)
    p.add_argument("--test", required=True, help="pattern of the photographs to score")
    p.add_argument("--tune", required=True, help="pattern of those that settings are searched on")
    p.add_argument("--task", default="denoise,sr4,deblur")
    p.add_argument("--model", default="default")
    p.add_argument("--count", type=int, default=48)
    p.add_argument("--tune-count", type=int, default=12)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--samples", type=int, default=8)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    print("| task | method | PSNR | SSIM | better than the classical one in |")
    print("|---|---|---|---|---|")
    for task in args.task.split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            classical, setting = tune(args, task, folder)
            scores = []
            for i, photo in enumerate(spread(args.test, args.count, args.size)):
                truth, y = measure(args, photo, task, args.seed + i, folder)
                mean = ("--output", "mean", "--samples", str(args.samples))
                answers = [rounded(classical(y)), restored(args, task, args.seed + i, folder),
                           restored(args, task, args.seed + i, folder, *mean)]
                if y.shape == truth.shape:
                    answers.append(y)
                scores.append([(psnr(truth, x), ssim(truth, x)) for x in answers])
        scores = np.array(scores)
        labels = [f"{METHODS[task]} {setting}", "david, one sample", f"david, mean of {args.samples}", "the measurement itself"]
        for k, label in enumerate(labels[:scores.shape[1]]):
            wins = f"{(scores[:, k, 0] > scores[:, 0, 0]).sum()} of {len(scores)}" if k in (1, 2) else "–"
            error = scores[:, k, 0].std(ddof=1) / np.sqrt(len(scores))
            print(f"| {task} | {label} | {scores[:, k, 0].mean():.2f} ± {error:.2f} | {scores[:, k, 1].mean():.3f} | {wins} |", flush=True)


if __name__ == "__main__":
    main()
