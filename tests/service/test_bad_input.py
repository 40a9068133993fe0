"""One table of bad input: each row gets its documented status and a message that names the limit and its setting, and leaves
the daemon alive, ready, and with as much memory reserved as before."""

import io
import socket
import struct
import zlib

import numpy as np
import pytest
import requests
from PIL import Image

from daemon import Answer, encoded, picture, png, wait_for

CLOSED = None  # the peer closed without an answer
GOOD = png()
MAX_BODY = 1 << 20  # as conftest sets it


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, rows=b"", depth=8, colour=2):
    """A PNG whose header says this size, whatever is in it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def spoiled(body, at, by=b"\xff\xff\xff\xff"):
    return body[:at] + by + body[at + len(by):]


def form(*parts, boundary=b"edge"):
    """multipart/form-data by hand: (name, bytes) in order, repeats allowed."""
    body = b"".join(
        b"--" + boundary + b'\r\nContent-Disposition: form-data; name="' + name + b'"; filename="f"\r\n\r\n' + data + b"\r\n"
        for name, data in parts)
    return body + b"--" + boundary + b"--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=edge"}
JPEG = encoded(picture(64, 64), "JPEG")
MASK = encoded(Image.new("L", (32, 32), 255))


def send(query="task=denoise", body=GOOD, headers=None):
    """A well-formed HTTP request whose contents are bad."""

    def run(d):
        url = d.url("/restore" + ("?" + query if query else ""))
        answer = requests.post(url, data=body, headers=headers or {"Content-Type": "image/png"}, timeout=60)
        return answer.status_code, answer.text, answer.headers

    return run


def raw(*pieces, then_close=False):
    """Bytes on a socket; what comes back. Sending stops where the peer has closed."""

    def run(d):
        with d.connect() as s:
            try:
                for piece in pieces:
                    s.sendall(piece)
                if then_close:
                    s.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            answer = Answer(s)
            return answer.status, answer.body.decode(errors="replace"), answer.headers

    return run


def head(extra="", path="/restore?task=denoise", method="POST"):
    return f"{method} {path} HTTP/1.1\r\nHost: d\r\n{extra}".encode()


def chunked(total, piece=65536):
    yield head("Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(total // piece):
        yield b"%x\r\n" % piece + b"\0" * piece + b"\r\n"
    yield b"0\r\n\r\n"


# name, what is sent, the statuses that are documented for it, and words of the detail
TABLE = [
    # -- bodies that are no picture
    ("empty body", send(body=b""), {415, 400}, []),
    ("text", send(body=b"hello, I am not a picture"), {415}, ["PNG", "JPEG"]),
    ("GIF", send(body=encoded(picture(), "GIF")), {415}, ["GIF"]),
    ("WebP", send(body=b"RIFF\x24\0\0\0WEBPVP8 " + b"\0" * 64), {415}, ["WebP"]),
    ("HEIC", send(body=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64), {415}, ["HEIC"]),
    ("SVG", send(body=b'<svg xmlns="http://www.w3.org/2000/svg"/>'), {415}, ["SVG"]),
    ("PNG signature alone", send(body=b"\x89PNG\r\n\x1a\n"), {422}, []),
    ("truncated PNG", send(body=GOOD[: len(GOOD) // 2]), {422}, []),
    ("truncated JPEG header", send(body=JPEG[:20]), {422}, []),
    ("JPEG without its scan", send(body=JPEG[: JPEG.index(b"\xff\xda")]), {422}, []),
    ("corrupt PNG header", send(body=spoiled(GOOD, 16)), {422}, []),
    ("corrupt PNG data", send(body=spoiled(GOOD, 60)), {422}, []),
    ("PNG with too few rows", send(body=png_of(64, 64, b"\0" * 100)), {422}, []),
    ("PNG of width 0", send(body=png_of(0, 64)), {422}, []),
    # -- pictures over or under a limit
    ("64250x64250 in 5 KB", send(body=png_of(64250, 64250, b"\0" * 4_000_000)), {422}, ["64250", "max_pixels", "40000"]),
    ("200x201 where 40000 px are the limit", send(body=png(200, 201)), {422}, ["max_pixels", "40000"]),
    ("1x1", send(body=png(1, 1)), {422}, ["8"]),
    ("7x100", send(body=png(7, 100)), {422}, ["8"]),
    ("20000x1 strip", send(body=png_of(20000, 1, b"\0" * 60001)), {422}, ["8"]),
    ("body over the limit", send(body=b"\0" * (MAX_BODY + 1)), {413}, ["max_body", "1MiB|1048576"]),
    # -- parameters
    ("unknown task", send("task=sharpen"), {400}, ["sharpen", "denoise", "sr4"]),
    ("task that the model lacks", send("task=sr4&model=denoiser"), {400}, ["denoise"]),
    ("no task where there are several", send(""), {400}, ["task"]),
    ("unknown model", send("task=denoise&model=nobody"), {404}, ["nobody"]),
    ("model as a path", send("task=denoise&model=../nano"), {404, 400}, []),
    ("unknown parameter", send("task=denoise&colour=red"), {400}, ["colour"]),
    ("repeated parameter", send("task=denoise&seed=1&seed=2"), {400}, ["seed"]),
    ("samples=0", send("task=denoise&samples=0&output=mean"), {400}, ["samples"]),
    ("samples=1e9", send("task=denoise&samples=1e9&output=mean"), {400}, ["samples"]),
    ("samples=1000000000", send("task=denoise&samples=1000000000&output=mean"), {422}, ["max_samples", "16"]),
    ("samples=17", send("task=denoise&samples=17&output=mean"), {422}, ["max_samples", "16"]),
    ("samples=-1", send("task=denoise&samples=-1&output=mean"), {400}, ["samples"]),
    ("samples=2 for one image", send("task=denoise&samples=2"), {400}, ["samples"]),
    ("mean of one sample", send("task=denoise&samples=1&output=mean"), {400}, ["samples"]),
    ("seed=-1", send("task=denoise&seed=-1"), {400}, ["seed"]),
    ("seed=2^64", send("task=denoise&seed=18446744073709551616"), {400}, ["seed"]),
    ("seed=1.5", send("task=denoise&seed=1.5"), {400}, ["seed"]),
    ("empty seed", send("task=denoise&seed="), {400}, ["seed"]),
    ("h=1e9", send("task=denoise&h=1e9"), {400}, ["h"]),
    ("h=nan", send("task=denoise&h=nan"), {400}, ["h"]),
    ("h=inf", send("task=denoise&h=inf"), {400}, ["h"]),
    ("h=-0.1", send("task=denoise&h=-0.1"), {400}, ["h"]),
    ("h=0.1x", send("task=denoise&h=0.1x"), {400}, ["h"]),
    ("unknown output", send("task=denoise&output=median"), {400}, ["output"]),
    ("deadline_ms=0", send("task=denoise&deadline_ms=0"), {400}, ["deadline_ms"]),
    ("a query that is no UTF-8", send("task=denoise&model=%ff"), {400}, []),
    ("a broken escape", send("task=%zz"), {400}, []),
    # -- masks and forms
    ("mask missing", send("task=inpaint"), {400}, ["mask"]),
    ("mask of another size", send("task=inpaint", form((b"image", GOOD), (b"mask", encoded(Image.new("L", (16, 32), 255)))), FORM),
     {400}, ["16", "32", "mask"]),
    ("a mask that is no picture", send("task=inpaint", form((b"image", GOOD), (b"mask", b"hello")), FORM), {415}, []),
    ("two bodies", send("task=denoise", form((b"image", GOOD), (b"image", GOOD)), FORM), {400}, ["image"]),
    ("two masks", send("task=inpaint", form((b"image", GOOD), (b"mask", MASK), (b"mask", MASK)), FORM), {400}, ["mask"]),
    ("form without an image", send("task=denoise", form((b"mask", MASK)), FORM), {400}, ["image"]),
    ("a field that is unknown", send("task=denoise", form((b"image", GOOD), (b"colour", b"red")), FORM), {400}, ["colour"]),
    ("task in the query and in the form", send("task=denoise", form((b"image", GOOD), (b"task", b"denoise")), FORM), {400}, ["task"]),
    ("form without a boundary", send("task=denoise", form((b"image", GOOD)), {"Content-Type": "multipart/form-data"}), {400}, ["boundary"]),
    ("form that stops in the middle", send("task=denoise", form((b"image", GOOD))[:-40], FORM), {400}, []),
    # -- HTTP itself
    ("unknown route", raw(head("\r\n", "/nothing", "GET")), {404}, []),
    ("no such method", raw(head("Content-Length: 0\r\n\r\n", method="BREW")), {405, 501, 400}, []),
    ("request line of 100 KB", raw(head("\r\n", "/" + "a" * 100_000, "GET")), {414, 431, 400, CLOSED}, []),
    ("headers without end", raw(head(), *[b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(200)]), {431, 400, 413, CLOSED}, []),
    ("headers that never finish", raw(head("X-Slow: ")), {408, CLOSED}, []),
    ("a body slower than one byte a second", raw(head("Content-Length: 1000\r\n\r\n"), b"\x89"), {408, CLOSED}, []),
    ("a body that ends early", raw(head(f"Content-Length: {len(GOOD) + 10}\r\n\r\n") + GOOD, then_close=True), {400, 408, CLOSED}, []),
    ("Content-Length that is no number", raw(head("Content-Length: ten\r\n\r\n")), {400, CLOSED}, []),
    ("negative Content-Length", raw(head("Content-Length: -5\r\n\r\n")), {400, CLOSED}, []),
    ("Content-Length over the limit, before any body", raw(head("Content-Length: 2000000\r\n\r\n")), {413}, ["max_body"]),
    ("Content-Length of 2^70, before any body", raw(head("Content-Length: 1180591620717411303424\r\n\r\n")), {400, 413, CLOSED}, []),
    ("no 100 Continue for a body over the limit", raw(head("Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n")), {413}, ["max_body"]),
    ("chunked body a little over the limit", raw(*chunked(MAX_BODY + 65536)), {413}, ["max_body"]),
    ("chunked body far over the limit", raw(*chunked(8 * MAX_BODY)), {413, CLOSED}, []),
    ("chunk size that is no number", raw(head("Transfer-Encoding: chunked\r\n\r\n") + b"zz\r\nabc\r\n"), {400, CLOSED}, []),
    ("bytes that are no HTTP", raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n"), {400, 405, CLOSED}, []),
]


@pytest.mark.parametrize("ask, statuses, words", [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input_gets_its_status_and_disturbs_nothing(daemon, ask, statuses, words):
    reserved = daemon.reserved()
    status, body, headers = ask(daemon)
    assert status in statuses, f"{status}: {body[:300]}"
    ours = headers.get("Content-Type", "").startswith("application/problem+json")
    # The library answers malformed requests itself; every other answer is a problem document.
    assert ours or status in {CLOSED, 400, 405, 413, 414, 431, 501}, headers
    assert ours or not words, body[:300]
    if ours:
        problem = requests.models.complexjson.loads(body)
        assert problem["status"] == status
        # Before the headers are there, a request has no id.
        assert problem["title"] and problem["detail"] and (problem["request_id"] or status == 408)
        for word in words:
            assert any(w in problem["detail"] for w in word.split("|")), problem["detail"]
    assert daemon.alive(), daemon.log()[-2000:]
    assert daemon.get("/readyz").status_code == 200
    wait_for("memory back where it was", lambda: daemon.reserved() == reserved)


def test_a_good_request_works_after_all_of_that(daemon):
    assert daemon.restore(GOOD, seed=1).status_code == 200


def test_chunked_body_under_the_limit_is_restored(daemon):
    with daemon.connect() as s:
        s.sendall(head("Transfer-Encoding: chunked\r\n\r\n", "/restore?task=denoise&seed=6"))
        for at in range(0, len(GOOD), 500):
            piece = GOOD[at : at + 500]
            s.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
        s.sendall(b"0\r\n\r\n")
        answer = Answer(s)
    assert answer.status == 200 and answer.body == daemon.restore(GOOD, seed=6).content


def test_pipelined_requests_are_answered_in_order(daemon):
    bodies = [png(24, 24, seed=i) for i in range(3)]
    alone = [daemon.restore(body, seed=i).content for i, body in enumerate(bodies)]
    with daemon.connect() as s:
        s.sendall(b"".join(
            head(f"Content-Length: {len(b)}\r\n\r\n", f"/restore?task=denoise&seed={i}") + b for i, b in enumerate(bodies)))
        stream = s.makefile("rb")
        for want in alone:
            assert b" 200 " in stream.readline()
            length = 0
            for line in iter(stream.readline, b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            assert stream.read(length) == want


def test_bytes_after_the_declared_length_are_not_part_of_the_picture(daemon):
    """A Content-Length that lies downwards: the picture is cut, and the rest is a malformed next request."""
    with daemon.connect() as s:
        s.sendall(head(f"Content-Length: {len(GOOD) // 2}\r\n\r\n") + GOOD)
        assert Answer(s).status == 422
    assert daemon.restore(GOOD).status_code == 200


def test_a_restoration_that_can_never_fit_names_the_budget(start):
    d = start(memory_budget="32MiB", max_pixels=10**9, max_samples=64)
    reserved = d.reserved()
    big = encoded(Image.fromarray(np.zeros((3000, 3000), np.uint8)))
    answer = d.restore(big)
    assert answer.status_code == 422 and "memory_budget" in answer.json()["detail"]
    wait_for("memory back", lambda: d.reserved() == reserved)
