"""nano.py OUT [ffhq256] - a model file with hash weights that offers every task: one level and 32 channels, or ffhq256.

It restores nothing well, but it runs in a millisecond or so and depends on every parameter, which is all that a test of
the service needs; ffhq256 is for its benchmark. The hash is that of engine/README.md section 7.
"""

import json
import struct
import sys

import numpy as np

ARCH = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1",
    "learn_sigma": True,
    "class_cond": False,
    "attention_resolutions": "",
    "num_heads": 4,
    "num_head_channels": 32,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "use_new_attention_order": False,
}
FFHQ256 = {**ARCH, "image_size": 256, "num_channels": 128, "channel_mult": "1,1,2,2,4,4", "attention_resolutions": "16",
           "num_head_channels": 64}
SIGMA = {"deblur": 0.05, "sr4": 0.05, "inpaint": 0.05, "denoise": 0.2, "colorize": 0.05, "sr2": 0.05, "dejpeg": 0}


def metadata(tasks=tuple(SIGMA), arch=ARCH):
    side = arch["image_size"]
    return {
        "david.arch": json.dumps(arch),
        "david.role": '"restorer"',
        "david.tasks": json.dumps({t: {"sigma": SIGMA[t], "h": 0.1, "label": None} for t in tasks}),
        "david.tile": json.dumps({"size": side, "overlap": side // 4}),
        "david.schedule": '"davi"',
    }


def shapes(arch=ARCH):
    """Every parameter's name and shape, in the order of the network (engine/README.md section 2)."""
    c0, blocks = arch["num_channels"], arch["num_res_blocks"]
    widths = [c0 * int(m) for m in arch["channel_mult"].split(",")]
    sides = [int(s) for s in arch["attention_resolutions"].split(",") if s]
    attends = [arch["image_size"] // 2**level in sides for level in range(len(widths))]
    e = 4 * c0

    def residual(name, cin, c):
        yield f"{name}.in_layers.0", (cin,)
        yield f"{name}.in_layers.2", (c, cin, 3, 3)
        yield f"{name}.emb_layers.1", (2 * c, e)
        yield f"{name}.out_layers.0", (c,)
        yield f"{name}.out_layers.3", (c, c, 3, 3)
        if cin != c:
            yield f"{name}.skip_connection", (c, cin, 1, 1)

    def attention(name, c):
        yield from {f"{name}.norm": (c,), f"{name}.qkv": (3 * c, c, 1), f"{name}.proj_out": (c, c, 1)}.items()

    for scalar in ("time", *(s for s in ("sigma", "level") if arch.get(f"{s}_cond"))):
        yield from {f"{scalar}_embed.0": (e, c0), f"{scalar}_embed.2": (e, e)}.items()
    yield "input_blocks.0.0", (widths[0], 3, 3, 3)
    h, n, skips = widths[0], 1, [widths[0]]
    for level, c in enumerate(widths):
        for _ in range(blocks):
            yield from residual(f"input_blocks.{n}.0", h, c)
            if attends[level]:
                yield from attention(f"input_blocks.{n}.1", c)
            h, n = c, n + 1
            skips.append(c)
        if level + 1 < len(widths):
            yield from residual(f"input_blocks.{n}.0", c, c)
            n += 1
            skips.append(c)
    yield from residual("middle_block.0", h, h)
    yield from attention("middle_block.1", h)
    yield from residual("middle_block.2", h, h)
    n = 0
    for level, c in reversed(list(enumerate(widths))):
        for i in range(blocks + 1):
            yield from residual(f"output_blocks.{n}.0", h + skips.pop(), c)
            if attends[level]:
                yield from attention(f"output_blocks.{n}.1", c)
            if level > 0 and i == blocks:
                yield from residual(f"output_blocks.{n}.{1 + attends[level]}", c, c)
            h, n = c, n + 1
    yield from {"out.0": (h,), "out.2": (6, h, 3, 3)}.items()


def hash_values(name, count, seed):
    mask = (1 << 64) - 1
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & mask
    base = (h + seed * 0x9E3779B97F4A7C15) & mask
    with np.errstate(over="ignore"):
        z = np.uint64(base) + np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float64) / 2.0**24
    return ((u - 0.5) * np.sqrt(12.0)).astype(np.float32)


def parameters(seed=1, arch=ARCH):
    """name -> float32 array."""
    found = {}
    for name, shape in shapes(arch):
        weight, bias = f"{name}.weight", f"{name}.bias"
        v = hash_values(weight, int(np.prod(shape)), seed)
        if len(shape) > 1:
            found[weight] = (v * np.float32(1 / np.sqrt(np.prod(shape[1:])))).reshape(shape)
        else:
            found[weight] = np.float32(1) + v * np.float32(0.1)
        found[bias] = hash_values(bias, shape[0], seed) * np.float32(0.1)
    return found


def safetensors(tensors, meta, edit=lambda header: header):
    """The bytes of a file; `edit` may spoil the header."""
    header, data = {"__metadata__": meta}, []
    at = 0
    for name, tensor in tensors.items():
        raw = np.ascontiguousarray(tensor, np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data.append(raw)
    text = json.dumps(edit(header)).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data)


def model(seed=1, tasks=tuple(SIGMA), arch=ARCH):
    return safetensors(parameters(seed, arch), metadata(tasks, arch))


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as out:
        out.write(model(arch=FFHQ256 if sys.argv[2:] == ["ffhq256"] else ARCH))
