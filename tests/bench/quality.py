"""`david eval` against classical methods on the same measurements, as a markdown table.

  python quality.py --david build/david --data FOLDER [--task denoise,sr4,deblur] [--limit N] [--model M]
Classical: denoise = non-local means, sr4 = bicubic, deblur = Wiener filter (its regularisation the best of a few on
these very pictures, which favours it). Needs numpy, scipy, Pillow and scikit-image; not part of any test run."""
import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image
from scipy.fft import irfft2, rfft2
from scipy.ndimage import convolve1d
from skimage.restoration import denoise_nl_means


def read_y(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    t = json.loads(data[8:8 + size])["y"]
    raw = data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]
    return np.frombuffer(raw, "<f4").reshape(t["shape"])[0].transpose(1, 2, 0).astype(np.float64)


def non_local_means(y, sigma):
    yield denoise_nl_means(y, h=0.6 * sigma, sigma=sigma, patch_size=5, patch_distance=6, fast_mode=True,
                           channel_axis=-1, preserve_range=True)


def bicubic(y, sigma):
    h, w, _ = y.shape
    planes = [Image.fromarray(y[..., c].astype(np.float32)).resize((4 * w, 4 * h), Image.BICUBIC) for c in range(3)]
    yield np.stack([np.asarray(p) for p in planes], -1)


def wiener(y, sigma):
    h, w, _ = y.shape
    pad = 30
    y = np.pad(y, ((pad, pad), (pad, pad), (0, 0)), "reflect")
    taps = np.exp(-np.arange(-30, 31) ** 2 / 18.0)
    taps /= taps.sum()
    spot = np.zeros(y.shape[:2])
    spot[0, 0] = 1
    blur = rfft2(convolve1d(convolve1d(spot, taps, 0, mode="wrap"), taps, 1, mode="wrap"))
    for k in (0.003, 0.01, 0.03, 0.1):
        x = irfft2(rfft2(y, axes=(0, 1)) * (blur.conj() / (abs(blur) ** 2 + k))[..., None], y.shape[:2], axes=(0, 1))
        yield x[pad:pad + h, pad:pad + w]


METHODS = {"denoise": ("non-local means", non_local_means), "sr4": ("bicubic", bicubic), "deblur": ("Wiener", wiener)}


def psnr(a, b):
    return 20 * np.log10(2 / np.sqrt(np.mean((a - b) ** 2)))


def ssim(a, b):
    """As `david eval --help` defines it."""
    w = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w /= w.sum()

    def blur(v):
        return convolve1d(convolve1d(v, w, 0), w, 1)[5:-5, 5:-5]

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.02**2, 0.06**2
    return np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


def classical(args, facts, task, folder):
    """The variant that is best on the mean, over all pictures."""
    scores = []
    for i, image in enumerate(facts["images"]):
        truth = pathlib.Path(args.data) / image["name"]
        y = folder / "y.safetensors"
        subprocess.run([args.david, "degrade", "--task", task, "--seed", str(args.seed + i), truth, y], check=True,
                       capture_output=True)
        x = np.asarray(Image.open(folder / "truth" / (image["name"] + ".png")).convert("RGB")) / 127.5 - 1
        scores.append([(psnr(x, v), ssim(x, v)) for v in
                       (v.clip(-1, 1) for v in METHODS[task][1](read_y(y), facts["sigma"]))])
    return max(np.mean(scores, 0).tolist())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--david", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--task", default="denoise,sr4,deblur")
    p.add_argument("--model", default="default")
    p.add_argument("--limit", type=int, default=20)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    print("| task | pictures | david PSNR | david SSIM | classical | PSNR | SSIM | input PSNR | residual / sigma | ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for task in args.task.split(","):
        with tempfile.TemporaryDirectory() as out:
            text = subprocess.run([args.david, "eval", "--task", task, "--data", args.data, "--model", args.model,
                                   "--limit", str(args.limit), "--seed", str(args.seed), "--out", out, "--json"],
                                  check=True, capture_output=True).stdout
            facts = json.loads(text)
            best, m = classical(args, facts, task, pathlib.Path(out)), facts["mean"]
        before = "–" if m["input_psnr"] is None else f"{m['input_psnr']:.2f}"
        print(f"| {task} | {facts['count']} | {m['psnr']:.2f} | {m['ssim']:.4f} | {METHODS[task][0]} | {best[0]:.2f} | "
              f"{best[1]:.4f} | {before} | {m['residual_rms'] / facts['sigma']:.3f} | {m['ms_per_image']:.0f} |",
              flush=True)


if __name__ == "__main__":
    main()
