"""Small seeds for the image fuzz targets: seeds.py FOLDER writes FOLDER/png, FOLDER/jpeg and FOLDER/made."""

import io
import pathlib
import struct
import sys
import zlib

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(orientation, order="<"):
    """An EXIF block with the orientation alone."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def png(colour, bits, width=5, height=3, extra=b"", interlaced=0):
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = b"\0" + bytes((7 * i) & 255 for i in range((width * bits * samples + 7) // 8))
    if interlaced:  # 1 x 1: only the first pass holds anything
        width = height = 1
        row = row[: 1 + (bits * samples + 7) // 8]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(range(48))) if colour == 3 else b""
    data = chunk(b"IDAT", zlib.compress(row * height))
    return SIGNATURE + chunk(b"IHDR", header) + palette + extra + data + chunk(b"IEND", b"")


def pngs():
    for colour, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16))):
        for bits in depths:
            yield png(colour, bits)
            yield png(colour, bits, interlaced=1)
    yield png(0, 8, extra=chunk(b"tRNS", b"\0\7"))
    yield png(2, 8, extra=chunk(b"tRNS", b"\0\7\0\7\0\7"))
    yield png(3, 4, extra=chunk(b"tRNS", b"\0\x80"))
    for orientation in range(1, 9):
        yield png(2, 8, extra=chunk(b"eXIf", tiff(orientation)))
    yield png(6, 16, extra=chunk(b"eXIf", tiff(6, ">")))


def jpegs():
    plain = Image.radial_gradient("L").resize((24, 17))
    colour = Image.merge("RGB", (plain, plain.rotate(180), plain.rotate(90)))
    for picture in (plain, colour, colour.convert("CMYK")):
        for options in ({}, {"progressive": True}, {"subsampling": 2}, {"optimize": True, "quality": 30}):
            out = io.BytesIO()
            picture.save(out, "JPEG", **options)
            yield out.getvalue()
    for orientation in range(1, 9):
        out = io.BytesIO()
        colour.save(out, "JPEG", exif=b"Exif\0\0" + tiff(orientation, "<>"[orientation & 1]))
        yield out.getvalue()


def main(folder):
    for name, files in (("png", pngs()), ("jpeg", jpegs())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, body in enumerate(files):
            (folder / name / f"{i:02}.{name}").write_bytes(body)
    (folder / "made").write_text("")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
