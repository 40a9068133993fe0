"""Rows of training on the device: photographs decoded once, crops, and measurements of them by
every task of engine/davi/tasks.def.

A row is a function of the seed, the step and the folder, as in engine/train/rows.c, but with
other draws. Images are [n][3][h][w] in units of [-1, 1]. numpy on the host draws the small
random values, the device draws noise.
"""
import concurrent.futures
import hashlib
import math
import pathlib
import re

import numpy as np
import torch
import torch.nn.functional as F

TABLE = pathlib.Path(__file__).resolve().parents[2] / "engine" / "davi" / "tasks.def"
MARGIN, CELL = 16, 16  # px around a crop that is blurred or compressed: 4 deviations of the widest blur, a cell of JPEG
TRIES, LEAST_CHANCE, BLOCK = 8, 0.1, 8
PHOTO_SIDE_CHANCE = 0.125  # that a side of such a crop is the photograph's edge
WITH_SURROUNDINGS = ("OPERATOR_BLUR", "OPERATOR_JPEG")
KEYS = ("name", "operator", "sigma", "sigma_low", "sigma_high", "h", "level", "level_low", "level_high", "gain")


def read_tasks(path=TABLE):
    """The rows of tasks.def by name: numbers and description."""
    tasks = {}
    for row in re.findall(r"^TASK\((.*?)\)$", pathlib.Path(path).read_text(), re.S | re.M):
        values = [v.strip().strip('"') for v in row.split(",")[1:1 + len(KEYS)]]
        task = {k: v if k in ("name", "operator") else float(v) for k, v in zip(KEYS, values)}
        if task["operator"] in OPERATORS:
            tasks[task["name"]] = task
    return tasks


# ---- photographs ----

class Photos:
    """A folder's images as one array of pixels on the device; images that are too small are
    skipped."""

    def __init__(self, folder, least_side, device):
        from PIL import Image
        files = sorted(p for p in pathlib.Path(folder).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))

        def decode(path):
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))

        with concurrent.futures.ThreadPoolExecutor() as pool:
            found = [p for p in pool.map(decode, files) if min(p.shape[:2]) >= least_side]
        if not found:
            raise SystemExit(f"{folder}: no image of at least {least_side} px a side")
        self.device, self.name, self.left_out = device, pathlib.Path(folder).name, len(files) - len(found)
        self.digest = hashlib.sha256("".join(f"{p.name} {p.stat().st_size}\n" for p in files).encode()).hexdigest()
        self.height, self.width = (np.array([p.shape[k] for p in found]) for k in (0, 1))
        self.offset = np.concatenate([[0], np.cumsum(self.height * self.width)[:-1]])
        sums = [texture_sums(p) for p in found]
        self.columns = np.array([s.shape[1] for s in sums])
        self.sums_offset = np.concatenate([[0], np.cumsum([s.size for s in sums])[:-1]])
        self.sums = np.concatenate([s.ravel() for s in sums])
        self.pixels = torch.from_numpy(np.concatenate([p.reshape(-1, 3) for p in found])).to(device)

    def texture(self, photo, x, y, side):
        """Mean |difference| of neighbours in levels, over the blocks that a square covers."""
        line = self.columns[photo]
        x0, y0 = x // BLOCK, y // BLOCK
        x1 = np.minimum((x + side) // BLOCK, line - 1)
        y1 = np.minimum((y + side) // BLOCK, self.height[photo] // BLOCK)
        at = lambda column, row: self.sums[self.sums_offset[photo] + row * line + column]
        total = at(x1, y1) - at(x1, y0) - at(x0, y1) + at(x0, y0)
        blocks = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)
        return np.where(blocks > 0, total / (2.0 * BLOCK * BLOCK * np.maximum(blocks, 1)), 0)

    def places(self, rng, n, side, jitter, texture):
        """Squares, preferably where there is texture: photo, x, y, side, [n] each."""
        photo = rng.integers(0, len(self.width), n)
        least = np.minimum(self.width, self.height)[photo]
        u = rng.random((TRIES, 4, n))
        size = np.minimum((side * (1 + u[:, 0] * (jitter - 1))).astype(np.int64), least)
        x = (u[:, 1] * (self.width[photo] - size + 1)).astype(np.int64)
        y = (u[:, 2] * (self.height[photo] - size + 1)).astype(np.int64)
        chance = np.ones((TRIES, n))
        if texture > 0:
            chance = np.maximum(self.texture(np.broadcast_to(photo, size.shape), x, y, size) / texture, LEAST_CHANCE)
        is_taken = u[:, 3] < chance
        is_taken[-1] = True
        first, row = is_taken.argmax(0), np.arange(n)
        return photo, x[first, row], y[first, row], size[first, row]

    def crops(self, rng, n, side, jitter, texture):
        """Squares of photographs, shrunk to `side` by means over boxes, in one of eight
        orientations."""
        photo, x, y, size = self.places(rng, n, side, jitter, texture)
        put = lambda v: torch.from_numpy(np.ascontiguousarray(v)).to(self.device)
        most, width = int(size.max()), put(self.width[photo])[:, None, None]
        inside = torch.minimum(torch.arange(most, device=self.device), put(size)[:, None] - 1)
        rows, columns = put(y)[:, None] + inside, put(x)[:, None] + inside
        from_pixels = self.pixels[put(self.offset[photo])[:, None, None] + rows[:, :, None] * width + columns[:, None, :]]
        boxes = box_means(put(size).float(), side, most)
        levels = boxes @ from_pixels.float().flatten(2)  # [n][side][most x 3]
        levels = boxes @ levels.view(n, side, most, 3).transpose(1, 2).flatten(2)
        levels = levels.view(n, side, side, 3).permute(0, 3, 2, 1)
        way = put(rng.integers(0, 8, n))[:, None, None, None]
        for bit, change in enumerate((lambda v: v.flip(2), lambda v: v.flip(3), lambda v: v.transpose(2, 3))):
            levels = torch.where((way >> bit & 1).bool(), change(levels), levels)
        return levels / 127.5 - 1


def texture_sums(rgb):
    """Sums of |differences of neighbours| of green, over all blocks above and left."""
    green = rgb[..., 1].astype(np.int64)
    right = np.abs(np.diff(green, axis=1, append=green[:, -1:]))
    below = np.abs(np.diff(green, axis=0, append=green[-1:]))
    h, w = (v // BLOCK for v in green.shape)
    blocks = (right + below)[:h * BLOCK, :w * BLOCK].reshape(h, BLOCK, w, BLOCK).sum((1, 3))
    sums = np.zeros((h + 1, w + 1), np.int64)
    sums[1:, 1:] = blocks.cumsum(0).cumsum(1)
    return sums


def box_means(size, side, most):
    """[n][side][most]: the share of each pixel of a line of `size` in the mean of each box."""
    step = (size / side)[:, None, None]
    first = torch.arange(side, device=size.device)[None, :, None] * step
    pixel = torch.arange(most, device=size.device)[None, None, :]
    return (torch.minimum(pixel + 1, first + step) - torch.maximum(pixel.float(), first)).clamp(min=0) / step


# ---- operators: of images x, the measurement without noise and its size for the network ----

def enlarged(y, by):
    return F.interpolate(y, scale_factor=by, mode="bilinear", align_corners=False)


def pooled(by):
    return lambda rows, x, level: (F.avg_pool2d(x, by), lambda y: enlarged(y, by))


def identity(rows, x, level):
    return x, lambda y: y


def gray(rows, x, level):
    of = torch.tensor([0.3333, 0.3334, 0.3333], device=x.device)
    return (x * of[:, None, None]).sum(1, keepdim=True), lambda y: y.expand(-1, 3, -1, -1)


def holes(rows, x, level):
    """Boxes, or strokes of a disc along a random walk that turns a little at every step."""
    n, side = len(x), x.shape[-1]
    u = rows.rng.random((n, 3, 4))
    pieces = np.arange(3) < (1 + rows.rng.integers(0, 3, n))[:, None]
    is_box = rows.rng.random(n) < 0.5
    w, h = (1 + (side * (0.1 + 0.4 * u[..., k])).astype(np.int64) for k in (0, 1))
    left, top = (u[..., 2] * (side - w + 1)).astype(np.int64), (u[..., 3] * (side - h + 1)).astype(np.int64)
    radius, steps = side * (0.02 + 0.06 * u[..., 0]), 4 + (12 * u[..., 1]).astype(np.int64)
    turns = np.cumsum(rows.rng.random((n, 3, 15)) - 0.5, -1) + (2 * math.pi * u[..., 2] - 0.5)[..., None]
    walk = np.stack([np.cos(turns), np.sin(turns)]) * radius[..., None]
    centre = np.cumsum(walk, -1) + side * rows.rng.random((2, n, 3, 1))
    is_disc = (np.arange(15) < steps[..., None]) & pieces[..., None] & ~is_box[:, None, None]
    at = torch.arange(side, device=x.device)
    put = lambda v: torch.from_numpy(np.ascontiguousarray(v)).to(x.device)
    in_box = (((at >= put(left)[..., None]) & (at < put(left + w)[..., None]))[:, :, None, :]
              & ((at >= put(top)[..., None]) & (at < put(top + h)[..., None]))[..., None]
              & put(pieces & is_box[:, None])[..., None, None]).any(1)
    cx, cy = (put(c.reshape(n, -1).astype(np.float32)) for c in centre)
    r2 = put(np.where(is_disc, radius[..., None]**2, -1).reshape(n, -1).astype(np.float32))
    dx2, dy2 = (at + 0.5 - cx[..., None])**2, (at + 0.5 - cy[..., None])**2
    in_disc = torch.zeros_like(in_box)
    for k in range(r2.shape[1]):
        in_disc |= dx2[:, k, None, :] + dy2[:, k, :, None] <= r2[:, k, None, None]
    return x * ~(in_box | in_disc)[:, None], lambda y: y


def blur(x, deviation):
    """With taps -30..30 and zeros beyond the image's sides; deviation: [n] px."""
    side = x.shape[-1]
    at = torch.arange(-30, 31, device=x.device)
    norm = (-0.5 * (at / deviation[:, None])**2).exp().sum(1)[:, None, None]
    line = torch.arange(side, device=x.device)
    away = (line[:, None] - line[None, :])[None]
    taps = torch.where(away.abs() <= 30, (-0.5 * (away / deviation[:, None, None])**2).exp(), 0.0) / norm
    return taps[:, None] @ x @ taps[:, None]


def blurred(rows, x, level):
    """x has a margin; where the crop's side is the photograph's edge, the margin is not part of
    the photograph."""
    n, side = len(x), x.shape[-1]
    there = np.ones((n, 2, side), np.float32)  # across, down
    own = rows.rng.random((n, 2, 2)) < PHOTO_SIDE_CHANCE
    there[:, :, :MARGIN] = ~own[:, :, :1]
    there[:, :, side - MARGIN:] = ~own[:, :, 1:]
    there = torch.from_numpy(there).to(x.device)
    y = blur(x * there[:, 0, None, None, :] * there[:, 1, None, :, None], level)
    return y[..., MARGIN:-MARGIN, MARGIN:-MARGIN], lambda y: y


# ---- JPEG as in libjpeg, without its integer arithmetic (a difference of a level in places); entropy coding is lossless and left out ----

LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMINANCE = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
""" + "99 " * 32
TO_YCC = [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]


def quantiser(table, quality):
    """[n][8][8] for qualities [n]."""
    base = torch.tensor([float(v) for v in table.split()], device=quality.device).view(8, 8)
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    return ((base * scale[:, None, None] + 50) / 100).floor().clamp(1, 255)


def through_blocks(plane, table):
    """plane: [n][h][w] in levels, sides divisible by 8."""
    n, h, w = plane.shape
    k = torch.arange(8, device=plane.device)
    dct = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / 16) * torch.where(k == 0, 8**-0.5, 0.5)[:, None]
    blocks = (plane - 128).view(n, h // 8, 8, w // 8, 8).transpose(2, 3)
    table = table[:, None, None]
    parts = dct @ blocks @ dct.T / table
    kept = (parts.abs() + 0.5).floor() * parts.sign() * table  # halves away from 0
    back = dct.T @ kept @ dct + 128
    return back.round().clamp(0, 255).transpose(2, 3).reshape(n, h, w)


def jpeg(x, quality):
    """x: levels [n][3][h][w], whole numbers; chroma of half the width and height; quality: [n]."""
    n, _, h, w = x.shape
    x = F.pad(x, (0, -w % 16, 0, -h % 16), mode="replicate")
    to_ycc = torch.tensor(TO_YCC, device=x.device)
    y, cb, cr = torch.einsum("kc,nchw->knhw", to_ycc, x).add(torch.tensor([0, 128, 128], device=x.device)[:, None, None, None]).round()
    # libjpeg rounds halves down and up in turn
    half = lambda c: (F.avg_pool2d(c[:, None], 2)[:, 0] * 4 + 1 + torch.arange(c.shape[2] // 2, device=x.device) % 2).div(4).floor()
    y = through_blocks(y, quantiser(LUMINANCE, quality))
    cb, cr = (enlarged(through_blocks(half(c), quantiser(CHROMINANCE, quality))[:, None], 2)[:, 0].round() - 128 for c in (cb, cr))
    rgb = torch.stack([y + 1.402 * cr, y - 0.344136286 * cb - 0.714136286 * cr, y + 1.772 * cb], 1)
    return rgb.round().clamp(0, 255)[..., :h, :w]


def compressed(rows, x, level):
    """x has a margin, of which so much is kept that the crop begins and ends at any offset in a
    cell."""
    n, side = len(x), x.shape[-1] - 2 * MARGIN
    own = rows.rng.random((n, 2, 2)) < PHOTO_SIDE_CHANCE  # of down and across, before and behind
    margin = torch.from_numpy(np.where(own, 0, MARGIN - rows.rng.integers(0, CELL, (n, 2, 2)))).to(x.device)
    row, at = torch.arange(n, device=x.device)[:, None, None], torch.arange(side + 2 * MARGIN, device=x.device)
    # Beyond the end the last pixel is repeated, as in libjpeg.
    part = torch.minimum(MARGIN - margin[:, :, :1] + at, MARGIN + side + margin[:, :, 1:] - 1)
    levels = ((x + 1) * 127.5).clamp(0, 255).round().permute(0, 2, 3, 1)[row, part[:, 0, :, None], part[:, 1, None, :]]
    y = jpeg(levels.permute(0, 3, 1, 2), level.round()).permute(0, 2, 3, 1)
    crop = margin[:, :, :1] + at[:side]
    return y[row, crop[:, 0, :, None], crop[:, 1, None, :]].permute(0, 3, 1, 2) / 127.5 - 1, lambda y: y


OPERATORS = {"OPERATOR_IDENTITY": identity, "OPERATOR_BLUR": blurred, "OPERATOR_POOL4": pooled(4), "OPERATOR_POOL2": pooled(2),
             "OPERATOR_MASK": holes, "OPERATOR_GRAY": gray, "OPERATOR_JPEG": compressed}


# ---- rows ----

class Rows:
    """Rows of a step. tasks: those of Restorer.tasks; arch decides which numbers are drawn from
    their ranges."""

    def __init__(self, photos, arch, tasks, side, jitter=2, texture=8):
        self.photos, self.arch, self.tasks = photos, arch, tasks
        self.side, self.jitter, self.texture = side, jitter, texture
        weights = np.array([t["weight"] for t in tasks]) if tasks else np.ones(1)
        self.chance = weights / weights.sum()

    def begin(self, seed, step):
        self.rng = np.random.default_rng([seed, step])
        self.noise = torch.Generator(self.photos.device)
        self.noise.manual_seed(int(self.rng.integers(0, 2**62)))

    def normals(self, shape):
        return torch.randn(shape, generator=self.noise, device=self.photos.device)

    def clean(self, n):
        return self.photos.crops(self.rng, n, self.side, self.jitter, self.texture)

    def measured(self, task, sigma, level):
        """x and y_in of rows of one task; sigma, level: [n] numpy."""
        has_margin = task["operator"] in WITH_SURROUNDINGS
        x = self.photos.crops(self.rng, len(sigma), self.side + 2 * MARGIN * has_margin, self.jitter, self.texture)
        put = lambda v: torch.from_numpy(v.astype(np.float32)).to(x.device)
        y, sized = OPERATORS[task["operator"]](self, x, put(level))
        y = y + put(sigma)[:, None, None, None] * self.normals(y.shape)
        return x[..., MARGIN:-MARGIN, MARGIN:-MARGIN] if has_margin else x, sized(y)

    def told(self, task, sigma, level):
        """The network's conditions for rows, as its sinusoids take them."""
        values = {"label": ("class_cond", np.full(len(sigma), max(task["label"], 0), np.int64)),
                  "sigma": ("sigma_cond", (1000 * sigma).astype(np.float32)),
                  "level": ("level_cond", (task["gain"] * level).astype(np.float32))}
        return {k: torch.from_numpy(v).to(self.photos.device) for k, (option, v) in values.items() if self.arch[option]}

    def of_task(self, k, n, middle=False):
        """x, y_in, h [n][1][1][1] and the conditions, of n rows of task k; middle: of its
        defaults."""
        task = self.tasks[k]
        low, high = (task["sigma"],) * 2 if middle or not self.arch["sigma_cond"] else task["sigma_range"]
        sigma = self.rng.uniform(low, high, n)
        low, high = (task["level"],) * 2 if middle or not self.arch["level_cond"] else task["level_range"]
        level = self.rng.uniform(low, high, n)
        x, y_in = self.measured(task, sigma, level)
        return x, y_in, torch.full((n, 1, 1, 1), task["h"], device=x.device), self.told(task, sigma, level)

    def draw(self, n, in_pairs=False):
        """x, y_in, hz (None where every h is 0) and the conditions, of n rows; in_pairs: two
        rows each share one measurement."""
        counts = self.rng.multinomial(n // 2 if in_pairs else n, self.chance)
        parts = [self.of_task(k, int(c)) for k, c in enumerate(counts) if c]
        join = lambda values: torch.cat(values).repeat_interleave(2, 0) if in_pairs else torch.cat(values)
        x, y_in, h = (join([p[i] for p in parts]) for i in range(3))
        told = {name: join([p[3][name] for p in parts]) for name in parts[0][3]}
        is_noisy = any(t["h"] > 0 for t in self.tasks)
        return x, y_in, h * self.normals(x.shape) if is_noisy else None, told
