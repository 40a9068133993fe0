"""The forecast of engine/cuda/README.md is what the program `forecast` counts: forecast_table.py FORECAST [--write]."""

import json
import pathlib
import subprocess
import sys

README = pathlib.Path("engine/cuda/README.md")
BEGIN = "<!-- forecast: made by tests/gpu/forecast_table.py --write -->\n"
END = "<!-- end of forecast -->"
BATCHES = [1, 8, 32]


def table(forecast, arch):
    batches = ",".join(map(str, BATCHES))
    lines = subprocess.run([forecast, "--arch", arch, "--batch", batches, "--json"], capture_output=True, text=True,
                           check=True).stdout.splitlines()
    runs = [json.loads(line) for line in lines]
    out = [f"**{arch}**, an image, at batch " + ", ".join(map(str, BATCHES)) + ":", "",
           "| op | times | GFLOP | MB | floor µs |", "|---|---|---|---|---|"]

    def row(name, times, parts):
        gflop = parts[0]["gflop"] / BATCHES[0]
        mb = ", ".join(f"{p['mb'] / b:.1f}" for p, b in zip(parts, BATCHES))
        us = ", ".join(f"{p['floor_us'] / b:.1f}" for p, b in zip(parts, BATCHES))
        out.append(f"| {name} | {times} | {gflop:.2f} | {mb} | {us} |")

    for i, part in enumerate(runs[0]["sums"]):
        row(part["op"].lower(), part["count"], [r["sums"][i] for r in runs])
    row("**all**", runs[0]["count"], runs)
    out += ["", "At the floor: " + ", ".join(f"{r['images_per_second']:.0f}" for r in runs) + " images/s."
            f" Of the bytes of batch {BATCHES[-1]}, {runs[-1]['mb_again'] / BATCHES[-1]:.1f} MB an image are norms' second reading;"
            f" images with gaps in convolutions: {runs[-1]['mb_gaps'] / BATCHES[-1]:.1f} MB.", ""]
    return "\n".join(out)


def main():
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    whole = before + BEGIN + "\n".join(table(sys.argv[1], arch) for arch in ("ffhq256", "imagenet256")) + END + after
    if "--write" in sys.argv:
        README.write_text(whole)
        return 0
    print("the forecast is what is counted" if whole == text else
          f"{README}: the forecast is not what is counted: run tests/gpu/forecast_table.py FORECAST --write")
    return whole != text


if __name__ == "__main__":
    sys.exit(main())
