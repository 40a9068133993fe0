"""beside.py OUT IN... - pictures side by side in one PNG, each brought to the height of the tallest by whole pixels."""

import sys

from PIL import Image

GAP = 6


def main(out, *names):
    pictures = [Image.open(name).convert("RGB") for name in names]
    height = max(p.height for p in pictures)
    pictures = [p.resize((p.width * height // p.height, height), Image.NEAREST) for p in pictures]
    width = sum(p.width for p in pictures) + GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, height), "white")
    x = 0
    for picture in pictures:
        sheet.paste(picture, (x, 0))
        x += picture.width + GAP
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
