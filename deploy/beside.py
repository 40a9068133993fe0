"""beside.py OUT IN... - writes images side by side into one PNG, each enlarged by a whole factor
to the height of the tallest.
"""

import sys

from PIL import Image

GAP = 6


def main(out, *names):
    images = [Image.open(name).convert("RGB") for name in names]
    height = max(p.height for p in images)
    images = [p.resize((p.width * height // p.height, height), Image.NEAREST) for p in images]
    width = sum(p.width for p in images) + GAP * (len(images) - 1)
    sheet = Image.new("RGB", (width, height), "white")
    x = 0
    for image in images:
        sheet.paste(image, (x, 0))
        x += image.width + GAP
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
