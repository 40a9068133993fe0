"""Small seeds for the fuzz targets: seeds.py FOLDER writes FOLDER/{png,jpeg,multipart,query,config} and FOLDER/made."""

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
    """An EXIF block that holds only the orientation."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def png(colour, bits, width=5, height=3, extra=b"", interlaced=0):
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = b"\0" + bytes((7 * i) & 255 for i in range((width * bits * samples + 7) // 8))
    if interlaced:  # 1 x 1: only the first pass holds pixels
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
    for image in (plain, colour, colour.convert("CMYK")):
        for options in ({}, {"progressive": True}, {"subsampling": 2}, {"optimize": True, "quality": 30}):
            out = io.BytesIO()
            image.save(out, "JPEG", **options)
            yield out.getvalue()
    for orientation in range(1, 9):
        out = io.BytesIO()
        colour.save(out, "JPEG", exif=b"Exif\0\0" + tiff(orientation, "<>"[orientation & 1]))
        yield out.getvalue()


def part(name, body, extra=""):
    return f'Content-Disposition: form-data; name="{name}"{extra}\r\n'.encode() + b"\r\n" + body


def multiparts():
    """The input of fuzz_multipart.c: the Content-Type, NUL, the body."""
    image = part("image", b"\x89PNG\r\n--\0", '; filename="a b.png"\r\nContent-Type: image/png')
    bodies = ([part("task", b"denoise")], [image, part("mask", b""), part("seed", b"42")], [part('a\\"b', b"--x")], [])
    for boundary in ("x", "----WebKitFormBoundary7MA4YWxk", '"a b"'):
        line = b"--" + boundary.strip('"').encode()
        for parts in bodies:
            body = b"".join(line + b"\r\n" + p + b"\r\n" for p in parts) + line + b"--\r\n"
            yield f"multipart/form-data; charset=utf-8; boundary={boundary}".encode() + b"\0" + body
            yield f"Multipart/Form-Data;BOUNDARY={boundary}".encode() + b"\0preamble\r\n" + body


def queries():
    yield b"task=denoise&model=a%2Fb&seed=18446744073709551615&h=0.1&samples=8&output=mean&deadline_ms=1000"
    yield b"task=deblur&sigma=0.05&level=2.5"
    yield b"sigma=1e-3&level=1e2&samples=1&output=image"
    yield b"task=sr4&&task=sr4&flag&empty=&=nameless&a=b=c&plus=a+b"
    yield "utf8=é€😀&escaped=%C3%A9%e2%82%ac%F0%9F%98%80".encode()
    yield b"bad=%zz&cut=%4&low=%c0%80&surrogate=%ed%a0%80&nul=%00"


def configs():
    yield b"# david\nlisten = 127.0.0.1:8080\nmodels = /srv/models # a folder\n\nmax_body = 64MiB\nmax_delay = 50ms\n"
    yield b"memory_budget=1TiB\r\nmax_pixels = 100kB\r\ndrain_timeout = 1h\r\nheader_timeout = 100us\r\nthreads = 2"
    yield b"a = 0\nb = 18446744073709551615\nc = 18446744073709551616\nd = 5 GiB\ne = 1m\nf = 7ns\n"


def main(folder):
    kinds = {"png": pngs, "jpeg": jpegs, "multipart": multiparts, "query": queries, "config": configs}
    for name, files in kinds.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, body in enumerate(files()):
            (folder / name / f"{i:02}.{name}").write_bytes(body)
    (folder / "made").write_text("")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
