"""`david sample` against a second DDIM (arXiv 2010.02502, eta 0), in double around `david forward`, from the same noise."""
import json

import numpy as np
from PIL import Image

from conftest import header_of, run, tiles

COUNT, SIDE, SEED, STREAM = 3, 16, 11, 4  # stream 3 + 1: z of training


def philox(counter, key):
    """Philox4x32-10; counter: [n][4], key: [2]."""
    c = [counter[:, i].astype(np.uint64) for i in range(4)]
    k, low = [int(key[0]), int(key[1])], np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), p1 & low, (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), p0 & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, -1)


def noise(row, count):
    key = philox(np.array([[0, 0, 0xFFFFFFFF, 0xFFFFFFFF]]), (SEED, 0))[0]
    counter = np.zeros((count // 4, 4), np.int64)
    counter[:, 0], counter[:, 2], counter[:, 3] = np.arange(count // 4), 16 * STREAM, row
    u = ((philox(counter, key[:2]) >> np.uint64(9)).astype(float) + 0.5) / 2**23
    radius, angle = np.sqrt(-2 * np.log(u[:, ::2])), 2 * np.pi * u[:, 1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(-1).astype("<f4")


def save_tensors(path, **tensors):
    header, blobs, at = {}, [], 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        blobs.append(value.astype("<f4").tobytes())
        at += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def epsilon(prior, x, t, folder):
    save_tensors(folder / "in.safetensors", x=x.astype("<f4"), t=np.full(len(x), t, "<f4"))
    run("forward", "--model", prior, "--dtype", "f32", "--in", folder / "in.safetensors", "--out", folder / "out.safetensors")
    data = (folder / "out.safetensors").read_bytes()
    y = header_of(folder / "out.safetensors")["y"]
    start = 8 + int.from_bytes(data[:8], "little")
    return np.frombuffer(data[start:][slice(*y["data_offsets"])], "<f4").reshape(y["shape"])[:, :3].astype(float)


def test_samples_are_those_of_ddim(prior, tmp_path):
    kept = np.cumprod(1 - np.linspace(np.sqrt(1e-4), np.sqrt(0.02), 1000) ** 2)
    sheets = {}
    for steps in (1, 2, 7):
        run("sample", "--prior", prior, "--dtype", "f32", "--steps", steps, "--count", COUNT, "--seed", SEED, tmp_path / "s.png")
        sheets[steps] = [image for row in tiles(tmp_path / "s.png", SIDE) for image in row][:COUNT]
        x = np.stack([noise(i, 3 * SIDE * SIDE) for i in range(COUNT)]).astype(float).reshape(COUNT, 3, SIDE, SIDE)
        times = [999] if steps == 1 else [999 * k // (steps - 1) for k in range(steps)][::-1]
        for t, after in zip(times, [*times[1:], None]):
            now, then = kept[t], 1 if after is None else kept[after]
            x0 = np.clip((x - np.sqrt(1 - now) * epsilon(prior, x, t, tmp_path)) / np.sqrt(now), -1, 1)
            x = np.sqrt(then) * x0 + np.sqrt(1 - then) * (x - np.sqrt(now) * x0) / np.sqrt(1 - now)
        for image, sample in zip(sheets[steps], x):
            levels = (sample.transpose(1, 2, 0) + 1) * 127.5
            assert np.abs(image - levels).max() < 0.51 + 0.05 and np.ptp(image) > 50, steps
    assert not np.array_equal(sheets[1], sheets[7])


def test_facts_are_one_json_object_or_the_image_goes_to_stdout(prior, tmp_path):
    args = ["sample", "--prior", prior, "--steps", 1, "--count", 2, "--seed", 5, "--json"]
    facts = json.loads(run(*args, tmp_path / "s.png").stdout)
    with Image.open(tmp_path / "s.png") as sheet:
        assert facts == {"count": 2, "steps": 1, "seed": "5", "width": sheet.width, "height": sheet.height}
    assert run(*args, "-", code=2).stderr.count(b"\n") == 1
