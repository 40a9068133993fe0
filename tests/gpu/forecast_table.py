"""Compares engine/cuda/FORECAST.md with the counts of the program `forecast`.

forecast_table.py FORECAST [--write]: FORECAST is the program; --write replaces the tables
instead.
"""

import json
import pathlib
import subprocess
import sys

DOCUMENT = pathlib.Path("engine/cuda/FORECAST.md")
BEGIN = "<!-- forecast: made by tests/gpu/forecast_table.py --write -->\n"
END = "<!-- end of forecast -->"
BATCHES = [1, 8, 32]


def table(forecast, arch):
    batches = ",".join(map(str, BATCHES))
    lines = subprocess.run([forecast, "--arch", arch, "--batch", batches, "--json"], capture_output=True, text=True,
                           check=True).stdout.splitlines()
    runs = [json.loads(line) for line in lines]
    out = [f"**{arch}**, per image, at batch " + ", ".join(map(str, BATCHES)) + ":", "",
           "| op | times | GFLOP | MB | floor µs |", "|---|---|---|---|---|"]

    def row(name, times, parts):
        gflop = parts[0]["gflop"] / BATCHES[0]
        mb = ", ".join(f"{p['mb'] / b:.1f}" for p, b in zip(parts, BATCHES))
        us = ", ".join(f"{p['floor_us'] / b:.1f}" for p, b in zip(parts, BATCHES))
        out.append(f"| {name} | {times} | {gflop:.2f} | {mb} | {us} |")

    for i, part in enumerate(runs[0]["sums"]):
        row(part["op"].lower(), part["count"], [r["sums"][i] for r in runs])
    row("**all**", runs[0]["count"], runs)
    out += ["", "At the floor: " + ", ".join(f"{r['images_per_second']:.0f}" for r in runs) + " images/s.",
            f"Of the bytes per image at batch {BATCHES[-1]}, {runs[-1]['mb_again'] / BATCHES[-1]:.1f} MB are the second read of norms;",
            f"{runs[-1]['mb_gaps'] / BATCHES[-1]:.1f} MB are inputs of convolutions with gaps between pixels.", ""]
    return "\n".join(out)


def main():
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    whole = before + BEGIN + "\n".join(table(sys.argv[1], arch) for arch in ("ffhq256", "imagenet256")) + END + after
    if "--write" in sys.argv:
        DOCUMENT.write_text(whole)
        return 0
    print("the forecast agrees with the counts" if whole == text else
          f"{DOCUMENT} differs from the counts: run tests/gpu/forecast_table.py FORECAST --write")
    return whole != text


if __name__ == "__main__":
    sys.exit(main())
