"""The engine's random numbers in numpy: Philox4x32-10 as in engine/graph/philox.h and
engine/train/draws.h.
"""
import numpy as np

SAMPLER, TRAINING = 0, 3  # streams; a draw of training adds its purpose to TRAINING
TIMES, SCORE_Z, SCORE_NOISE, GENERATOR_Z, GENERATOR_NOISE, MEASUREMENT, CROP, MASK, TASK, WEIGHTS, CONDITIONS = range(11)


def philox(key, *counter):
    """The four words at each place; counter: four numbers or arrays of them."""
    low = np.uint64(0xFFFFFFFF)
    c = [np.asarray(v, np.uint64) for v in np.broadcast_arrays(*counter)]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), p1 & low, (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), p0 & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, -1)


def normals(words):
    """Four normals of four words."""
    unit = ((words >> np.uint64(9)).astype(np.float64) + 0.5) / 8388608
    radius, angle = np.sqrt(-2 * np.log(unit[..., 0::2])), 2 * np.pi * unit[..., 1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(words.shape).astype(np.float32)


def noise_images(key, stream, sample, side):
    """[1][3][side][side]; position (0, 0) is the image's corner."""
    x4, y, c = np.arange((side + 3) // 4), np.arange(side)[:, None], np.arange(3)[:, None, None]
    return normals(philox(key, x4, y, c + 16 * stream, sample)).reshape(3, side, -1)[None, :, :, :side]


def sampler_noise(seed, sample, side):
    return noise_images(seed, SAMPLER, sample, side)


def step_key(seed, step):
    words = philox(seed, step & 0xFFFFFFFF, step >> 32, 0xFFFFFFFF, 0xFFFFFFFF)
    return int(words[1]) << 32 | int(words[0])


def images(seed, step, what, row, side):
    return noise_images(step_key(seed, step), TRAINING + what, row, side)


def measurement_noise(seed, step, row, shape):
    """In the order of the values, for any shape."""
    count = int(np.prod(shape))
    words = philox(step_key(seed, step), np.arange((count + 3) // 4), 0, 16 * (TRAINING + MEASUREMENT), row)
    return normals(words).ravel()[:count].reshape(shape)


class Dice:
    """A sequence of numbers, uniform in (0, 1)."""

    def __init__(self, seed, step, what, row):
        self.key, self.stream, self.row, self.at = step_key(seed, step), TRAINING + what, row, 0

    def unit(self):
        words = philox(self.key, self.at // 4, 0, 16 * self.stream, self.row)
        self.at += 1
        return (int(words[(self.at - 1) % 4]) + 0.5) / 4294967296

    def below(self, n):
        return min(int(self.unit() * n), n - 1)
