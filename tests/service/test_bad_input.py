"""One table of bad input: each row gets its documented status and a message that names the limit and its setting, or is a
clear refusal to load; and leaves the daemon alive, ready, and with as much memory reserved as before."""

import json
import os
import socket
import struct
import subprocess
import threading
import zlib

import pytest
import requests
from PIL import Image

import bad_models
import nano
from daemon import DAVID, Answer, encoded, image, png, wait_for

CLOSED = None  # the peer closed without an answer
LIBRARY = ["<html>"]  # libmicrohttpd's own body: malformed requests never reach the daemon
GOOD = png()
MAX_BODY = 1 << 20  # this and every other limit: as conftest sets it


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
JPEG = encoded(image(64, 64), "JPEG")
MASK = encoded(Image.new("L", (32, 32), 255))


def send(query="task=denoise", body=GOOD, headers=None):
    """A well-formed HTTP request whose contents are bad."""

    def run(d):
        url = d.url("/restore" + ("?" + query if query else ""))
        answer = requests.post(url, data=body, headers=headers or {"Content-Type": "image/png"}, timeout=60)
        return answer.status_code, answer.text, answer.headers

    return run


def raw(*pieces, then_close=False, as_bytes=False, is_head=False):
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
            answer = Answer(s, is_head=is_head)
            return answer.status, answer.body if as_bytes else answer.body.decode(errors="replace"), answer.headers

    return run


def head(extra="", path="/restore?task=denoise", method="POST"):
    return f"{method} {path} HTTP/1.1\r\nHost: d\r\n{extra}".encode()


def sized(body, path="/restore?task=denoise", length=None):
    return head(f"Content-Length: {len(body) if length is None else length}\r\n\r\n", path) + body


def chunked(total, piece=65536):
    yield head("Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(total // piece):
        yield b"%x\r\n" % piece + b"\0" * piece + b"\r\n"
    yield b"0\r\n\r\n"


def chunked_image(d):
    """A body without a length that keeps to the limit is as good as one with."""
    pieces = [GOOD[at : at + 500] for at in range(0, len(GOOD), 500)]
    status, body, headers = raw(head("Transfer-Encoding: chunked\r\n\r\n", "/restore?task=denoise&seed=6"),
                                *[b"%x\r\n" % len(p) + p + b"\r\n" for p in pieces], b"0\r\n\r\n", as_bytes=True)(d)
    return status, "the same bytes" if body == d.restore(GOOD, seed=6).content else "other bytes", headers


def slowly(d):
    """A body that never pauses for as long as a second, but whose every byte takes a third of one."""
    with d.connect() as s:
        s.sendall(head("Content-Length: 1000\r\n\r\n"))
        is_over = threading.Event()

        def drip():
            while not is_over.wait(0.3):
                try:
                    s.sendall(b"\x89")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        answer = Answer(s)
        is_over.set()
        dripping.join()
        return answer.status, answer.body.decode(errors="replace"), answer.headers


def in_a_row(*requests_):
    """Requests on one connection, all sent before any is answered: the last answer, where the others were `statuses`."""

    def run(d):
        with d.connect() as s:
            s.sendall(b"".join(bytes_ for bytes_, _ in requests_))
            rest = b""
            for _, status in requests_:
                answer = Answer(s, rest)
                assert answer.status == status, answer.body
                rest = answer.rest
        return answer.status, answer.body.decode(errors="replace"), answer.headers

    return run


def smuggled(headers, body):
    """A request whose length two readers could tell apart, and another behind it: one answer, and the connection is closed."""

    def run(d):
        with d.connect() as s:
            s.sendall(head(headers + "\r\n") + body + b"GET /livez HTTP/1.1\r\nHost: d\r\n\r\n")
            answer = Answer(s)
            assert answer.rest == b"" and s.recv(1) == b""
            return answer.status, answer.body.decode(errors="replace"), answer.headers

    return run


def pipelined(d):
    """Three images on one connection are answered in order."""
    bodies = [png(24, 24, seed=i) for i in range(3)]
    alone = [d.restore(body, seed=i).content for i, body in enumerate(bodies)]
    with d.connect() as s:
        s.sendall(b"".join(sized(b, f"/restore?task=denoise&seed={i}") for i, b in enumerate(bodies)))
        rest, answers = b"", []
        for _ in bodies:
            answers.append(Answer(s, rest))
            rest = answers[-1].rest
    return answers[-1].status, "the same bytes" if [a.body for a in answers] == alone else "other bytes", answers[-1].headers


NEVER = "task=sr4&samples=16&output=all"  # of 200 x 200 px: some 150 MB, where memory_budget is 128 MiB

# name, what is sent, the statuses that are documented for it (CLOSED beside a 408, or a chunked body far over the limit: the
# library cannot always answer), and words of the detail; "|" between alternatives
TABLE = [
    # -- bodies that are no image
    ("empty body", send(body=b""), {415}, ["0 bytes"]),
    ("text", send(body=b"hello, I am not an image"), {415}, ["PNG", "JPEG"]),
    ("GIF", send(body=encoded(image(), "GIF")), {415}, ["GIF"]),
    ("WebP", send(body=b"RIFF\x24\0\0\0WEBPVP8 " + b"\0" * 64), {415}, ["WebP"]),
    ("HEIC", send(body=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64), {415}, ["HEIC"]),
    ("SVG", send(body=b'<svg xmlns="http://www.w3.org/2000/svg"/>'), {415}, ["SVG"]),
    ("a GIF that is declared a PNG", send(body=encoded(image(), "GIF"), headers={"Content-Type": "image/png"}), {415}, ["GIF"]),
    ("PNG signature alone", send(body=b"\x89PNG\r\n\x1a\n"), {422}, ["header"]),
    ("truncated PNG", send(body=GOOD[: len(GOOD) // 2]), {422}, ["cut short"]),
    ("truncated JPEG header", send(body=JPEG[:20]), {422}, ["end"]),
    ("JPEG without its scan", send(body=JPEG[: JPEG.index(b"\xff\xda")]), {422}, ["end"]),
    ("truncated JPEG", send(body=JPEG[: len(JPEG) * 2 // 3]), {422}, ["end"]),
    ("corrupt PNG header", send(body=spoiled(GOOD, 16)), {422}, ["header"]),
    ("corrupt PNG data", send(body=spoiled(GOOD, 60)), {422}, ["PNG"]),
    ("PNG with too few rows", send(body=png_of(64, 64, b"\0" * 100)), {422}, ["PNG"]),
    ("PNG of width 0", send(body=png_of(0, 64)), {422}, ["0 x 64"]),
    # -- images over or under a limit
    ("64250x64250 in 5 KB", send(body=png_of(64250, 64250, b"\0" * 4_000_000)), {422}, ["64250", "max_pixels", "40000"]),
    ("200x201 where 40000 px are the limit", send(body=png(200, 201)), {422}, ["max_pixels", "40000"]),
    ("1x1", send(body=png(1, 1)), {422}, ["1 x 1", "8"]),
    ("7x100", send(body=png(7, 100)), {422}, ["7 x 100", "8"]),
    ("20000x1 strip", send(body=png_of(20000, 1, b"\0" * 60001)), {422}, ["20000 x 1", "8"]),
    ("body over the limit", send(body=b"\0" * (MAX_BODY + 1)), {413}, ["max_body", "1MiB|1048576"]),
    ("a restoration that can never fit the budget", send(NEVER, png(200, 200)), {422}, ["memory_budget", "134217728|128MiB"]),
    # -- parameters
    ("unknown task", send("task=sharpen"), {400}, ["sharpen", "denoise", "sr4"]),
    ("task that the model lacks", send("task=sr4&model=denoiser"), {400}, ["denoise"]),
    ("no task where there are several", send(""), {400}, ["task"]),
    ("unknown model", send("task=denoise&model=nobody"), {404}, ["nobody"]),
    ("model as a path", send("task=denoise&model=../nano"), {404}, ["no model"]),
    ("unknown parameter", send("task=denoise&colour=red"), {400}, ["colour"]),
    ("repeated parameter", send("task=denoise&seed=1&seed=2"), {400}, ["seed", "once"]),
    ("samples=0", send("task=denoise&samples=0&output=mean"), {400}, ["samples"]),
    ("samples=1e9", send("task=denoise&samples=1e9&output=mean"), {400}, ["samples"]),
    ("samples=1000000000", send("task=denoise&samples=1000000000&output=mean"), {422}, ["max_samples", "16"]),
    ("samples=17", send("task=denoise&samples=17&output=mean"), {422}, ["max_samples", "16"]),
    ("samples=-1", send("task=denoise&samples=-1&output=mean"), {400}, ["samples"]),
    ("samples=2 for one image", send("task=denoise&samples=2"), {400}, ["samples"]),
    ("mean of one sample", send("task=denoise&samples=1&output=mean"), {400}, ["samples"]),
    ("seed=-1", send("task=denoise&seed=-1"), {400}, ["seed", "2^64-1"]),
    ("seed=2^64", send("task=denoise&seed=18446744073709551616"), {400}, ["seed", "2^64-1"]),
    ("seed=1.5", send("task=denoise&seed=1.5"), {400}, ["seed"]),
    ("empty seed", send("task=denoise&seed="), {400}, ["seed"]),
    ("h=1e9", send("task=denoise&h=1e9"), {400}, ["h = ", "10"]),
    ("h=nan", send("task=denoise&h=nan"), {400}, ["h = ", "10"]),
    ("h=inf", send("task=denoise&h=inf"), {400}, ["h = ", "10"]),
    ("h=-0.1", send("task=denoise&h=-0.1"), {400}, ["h = ", "10"]),
    ("h=0.1x", send("task=denoise&h=0.1x"), {400}, ["h = ", "10"]),
    ("sigma=0", send("task=denoise&sigma=0"), {400}, ["sigma = ", "10"]),
    ("sigma=0.3 of a model that knows 0.2", send("task=denoise&sigma=0.3"), {400}, ["sigma = 0.3", "0.2 alone"]),
    ("level=1e400", send("task=deblur&level=1e400"), {400}, ["level = ", "100"]),
    ("level where there is none", send("task=denoise&level=3"), {400}, ["denoise has no level"]),
    ("unknown output", send("task=denoise&output=median"), {400}, ["output", "mean"]),
    ("deadline_ms=0", send("task=denoise&deadline_ms=0"), {400}, ["deadline_ms"]),
    ("a query that is no UTF-8", send("task=denoise&model=%ff"), {400}, ["UTF-8"]),
    ("a query with a zero byte", send("task=denoise&model=a%00b"), {400}, ["control bytes"]),
    ("a broken escape", raw(sized(GOOD, "/restore?task=%zz")), {400}, ["%"]),
    # -- masks and forms
    ("mask missing", send("task=inpaint"), {400}, ["mask"]),
    ("mask of another size", send("task=inpaint", form((b"image", GOOD), (b"mask", encoded(Image.new("L", (16, 32), 255)))), FORM),
     {400}, ["16 x 32", "32 x 32", "mask"]),
    ("a mask that is no image", send("task=inpaint", form((b"image", GOOD), (b"mask", b"hello")), FORM), {415}, ["PNG"]),
    ("a mask for another task", send("task=denoise", form((b"image", GOOD), (b"mask", MASK)), FORM), {400}, ["inpaint"]),
    ("two bodies", send("task=denoise", form((b"image", GOOD), (b"image", GOOD)), FORM), {400}, ["image", "once"]),
    ("two masks", send("task=inpaint", form((b"image", GOOD), (b"mask", MASK), (b"mask", MASK)), FORM), {400}, ["mask", "once"]),
    ("form without an image", send("task=denoise", form((b"mask", MASK)), FORM), {400}, ["image"]),
    ("a field that is unknown", send("task=denoise", form((b"image", GOOD), (b"colour", b"red")), FORM), {400}, ["colour"]),
    ("task in the query and in the form", send("task=denoise", form((b"image", GOOD), (b"task", b"denoise")), FORM), {400}, ["task", "once"]),
    ("form without a boundary", send("task=denoise", form((b"image", GOOD)), {"Content-Type": "multipart/form-data"}), {400}, ["boundary"]),
    ("form that stops in the middle", send("task=denoise", form((b"image", GOOD))[:-40], FORM), {400}, ["boundary"]),
    # -- HTTP itself
    ("unknown route", raw(head("\r\n", "/nothing", "GET")), {404}, ["openapi"]),
    ("no such method", raw(head("Content-Length: 0\r\n\r\n", method="BREW")), {405}, ["POST"]),
    ("PUT", raw(head("Content-Length: 0\r\n\r\n", method="PUT")), {405}, ["POST"]),
    ("OPTIONS", raw(head("\r\n", method="OPTIONS")), {405}, ["POST"]),
    ("OPTIONS where GET goes", raw(head("\r\n", "/metrics", "OPTIONS")), {405}, ["GET", "HEAD"]),
    ("HEAD where GET does not go", raw(head("\r\n", method="HEAD"), is_head=True), {405}, []),
    ("HEAD where GET goes", raw(head("\r\n", "/livez", "HEAD"), is_head=True), {200}, []),
    ("request line of 100 KB", raw(head("\r\n", "/" + "a" * 100_000, "GET")), {414}, LIBRARY),
    ("headers without end", raw(head(), *[b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(200)]), {431}, LIBRARY),
    ("headers that never finish", raw(head("X-Slow: ")), {408, CLOSED}, ["header_timeout = 2s"]),
    ("a body that stops", raw(head("Content-Length: 1000\r\n\r\n"), b"\x89"), {408, CLOSED}, ["body_timeout = 2s"]),
    ("a body slower than it may be", slowly, {408, CLOSED}, ["body_timeout = 2s"]),
    ("Content-Length that is too large", raw(sized(GOOD, length=len(GOOD) + 10), then_close=True), {408, CLOSED}, ["body_timeout = 2s"]),
    ("Content-Length that is too small", in_a_row((sized(GOOD, length=len(GOOD) // 2), 422)), {422}, ["cut short"]),
    ("Content-Length that is no number", raw(head("Content-Length: ten\r\n\r\n")), {400}, LIBRARY),
    ("negative Content-Length", raw(head("Content-Length: -5\r\n\r\n")), {400}, LIBRARY),
    ("Content-Length over the limit, before any body", raw(head("Content-Length: 2000000\r\n\r\n")), {413}, ["max_body"]),
    ("Content-Length of 2^70, before any body", raw(head("Content-Length: 1180591620717411303424\r\n\r\n")), {413}, LIBRARY),
    ("no 100 Continue for a body over the limit", raw(head("Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n")), {413}, ["max_body"]),
    ("chunked body under the limit", chunked_image, {200}, ["the same bytes"]),
    ("chunked body a little over the limit", raw(*chunked(MAX_BODY + 65536)), {413}, ["max_body"]),
    ("chunked body far over the limit", raw(*chunked(8 * MAX_BODY)), {413, CLOSED}, ["max_body"]),
    ("chunk size that is no number", raw(head("Transfer-Encoding: chunked\r\n\r\n") + b"zz\r\nabc\r\n"), {400}, LIBRARY),
    ("two lengths", smuggled(f"Content-Length: {len(GOOD)}\r\nContent-Length: 5\r\n", GOOD), {400}, ["Content-Length"]),
    ("a length of 0 and another", smuggled(f"Content-Length: 0\r\nContent-Length: {len(GOOD)}\r\n", GOOD), {400}, ["Content-Length"]),
    ("a length and chunks", smuggled("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), {400}, ["Transfer-Encoding"]),
    ("an encoding that is not chunked", smuggled("Transfer-Encoding: identity\r\n", GOOD), {400}, ["Transfer-Encoding"]),
    ("two encodings", smuggled("Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), {400}, ["Transfer-Encoding"]),
    ("a header's name with a space", smuggled("Content-Length : 5\r\n", b"abcde"), {400}, ["space"]),
    ("pipelined requests", pipelined, {200}, ["the same bytes"]),
    ("a bad request between good ones", in_a_row((sized(GOOD), 200), (sized(b"no image"), 415), (sized(GOOD), 200), (sized(b""), 415)),
     {415}, ["0 bytes"]),
    ("bytes that are no HTTP", raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n"), {400, CLOSED}, LIBRARY),
    # -- model files
    *bad_models.ROWS,
]


@pytest.mark.parametrize("ask, statuses, words", [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input_gets_its_status_and_disturbs_nothing(daemon, ask, statuses, words):
    reserved = daemon.idle
    status, body, headers = ask(daemon)
    assert status in statuses, f"{status}: {body[:300]}"
    if words is not LIBRARY and status is not CLOSED:
        detail = body
        if isinstance(status, int) and status >= 400 and body:
            assert headers["Content-Type"] == "application/problem+json", headers
            problem = json.loads(body)
            assert set(problem) == {"type", "title", "status", "detail", "request_id"}
            assert problem["status"] == status and problem["title"]
            assert problem["request_id"] and problem["request_id"] == headers["X-Request-Id"]
            detail = problem["detail"]
        for word in words:
            assert any(w in detail for w in word.split("|")), detail
    if status == 405:
        assert headers["Allow"] in {"POST", "GET, HEAD"}
    assert daemon.alive(), daemon.log()[-2000:]
    assert daemon.get("/readyz").status_code == 200
    wait_for("memory back where it was", lambda: daemon.reserved() == reserved)
    wait_for("no request left", lambda: daemon.metric("david_requests_active") == 0)


def test_a_good_request_works_after_all_of_that(daemon):
    assert daemon.restore(GOOD, seed=1).status_code == 200


def test_the_good_model_file_is_served_and_inspected(start, tmp_path):
    """What bad_models spoils is good before."""
    (tmp_path / "nano.safetensors").write_bytes(bad_models.GOOD)
    done = subprocess.run([DAVID, "inspect", tmp_path / "nano.safetensors"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "denoise" in done.stdout, done.stderr
    assert start(models=tmp_path).restore(GOOD).status_code == 200


def test_a_name_is_one_model_for_whoever_asks(start, tmp_path):
    """NAME.safetensors beside NAME/ with versions: by name, by default and on the command line it is the newest version."""
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano.safetensors").write_bytes(nano.model(seed=3))
    (tmp_path / "nano/v1.safetensors").write_bytes(nano.model(seed=4))
    (tmp_path / "nano/v1.1.safetensors").write_bytes(bad_models.GOOD)
    (tmp_path / "in.png").write_bytes(GOOD)
    d = start(models=tmp_path)
    (model,) = d.get("/v1/models").json()["models"]
    assert (model["name"], model["version"], model["default"]) == ("nano", "v1.1", True)
    assert {d.restore(GOOD).headers["David-Model"], d.restore(GOOD, model="nano").headers["David-Model"]} == {
        "nano@" + model["digest"][:12]}
    assert any("model refused" in line and "nano.safetensors" in line for line in d.log().splitlines())
    done = subprocess.run([DAVID, "restore", "--model", "nano", "--task", "denoise", "--json", "in.png", "out.png"], cwd=tmp_path,
                          env={**os.environ, "DAVID_MODELS": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["model"] == model["digest"], done.stderr


def test_a_spoilt_file_beside_a_good_default_is_left_out(start, tmp_path):
    (tmp_path / "nano.safetensors").write_bytes(bad_models.GOOD)
    (tmp_path / "broken.safetensors").write_bytes(bad_models.GOOD[:-4])
    d = start(models=tmp_path)
    assert {m["name"] for m in d.get("/v1/models").json()["models"]} == {"nano"}
    refused = [json.loads(line) for line in d.log().splitlines() if "model refused" in line]
    assert len(refused) == 1 and refused[0]["file"].endswith("broken.safetensors") and refused[0]["detail"]
