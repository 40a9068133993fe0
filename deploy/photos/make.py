#!/usr/bin/env python3
"""make.py DAVID - makes the degraded photographs of this folder and README's image from
NAME.jpg.

Each NAME.TASK.png is the output of `david degrade --task TASK --seed N NAME.jpg
NAME.TASK.png`; before-after.jpg shows them above the output of `david restore --task TASK
--seed N`. DAVID is the program (build/david). Needs Pillow.
"""

import pathlib
import subprocess
import sys
import tempfile

from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
PHOTOS = (("pagoda", "denoise", 1), ("dahlia", "deblur", 2), ("raccoon", "sr4", 3))
GAP = 6


def run(*args):
    subprocess.run([str(a) for a in args], check=True, stderr=subprocess.DEVNULL)


def main(david):
    cell = Image.open(HERE / f"{PHOTOS[0][0]}.jpg").size
    step = [side + GAP for side in cell]
    sheet = Image.new("RGB", (len(PHOTOS) * step[0] - GAP, 2 * step[1] - GAP), "white")
    with tempfile.TemporaryDirectory() as folder:
        restored = pathlib.Path(folder, "restored.png")
        for column, (name, task, seed) in enumerate(PHOTOS):
            degraded = HERE / f"{name}.{task}.png"
            run(david, "degrade", "--task", task, "--seed", seed, HERE / f"{name}.jpg", degraded)
            run(david, "restore", "--task", task, "--seed", seed, degraded, restored)
            for row, image in enumerate((degraded, restored)):
                # A small measurement is enlarged by a whole factor.
                cut = Image.open(image).convert("RGB").resize(cell, Image.NEAREST)
                sheet.paste(cut, (column * step[0], row * step[1]))
    sheet.save(HERE / "before-after.jpg", quality=85, subsampling=0, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
