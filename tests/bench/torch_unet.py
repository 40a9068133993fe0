"""The network of engine/README.md sections 2 and 9 in plain PyTorch, with the parameter names of
model files.

For timing (bench_torch.py), for checks (check_levers.py) and for training on a GPU
(tests/gpu/train_torch.py). An architecture is the JSON object of david.arch;
load_state_dict(strict) accepts the tensors of a model file unchanged.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

COMMON = dict(learn_sigma=True, class_cond=False, num_heads=4, num_head_channels=64, use_scale_shift_norm=True,
              resblock_updown=True, use_new_attention_order=False)
ARCHS = {
    "ffhq256": dict(image_size=256, num_channels=128, num_res_blocks=1, channel_mult="1,1,2,2,4,4",
                    attention_resolutions="16", **COMMON),
    "imagenet256": dict(image_size=256, num_channels=256, num_res_blocks=2, channel_mult="1,1,2,2,4,4",
                        attention_resolutions="32,16,8", **COMMON),
}
DEFAULTS = dict(attention_resolutions="16,8", num_heads=4, num_head_channels=-1, learn_sigma=False, class_cond=False,
                use_scale_shift_norm=True, resblock_updown=False, use_new_attention_order=False, patch=1, noise="added",
                output="tanh", sigma_cond=False, level_cond=False, middle_attention=True)
EPS = 1e-5


def whole_arch(arch):
    """`arch` with the defaults of keys that a model file omits."""
    whole = {**DEFAULTS, **arch}
    whole.setdefault("num_classes", 1000 if whole["class_cond"] else 0)
    return whole


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def norm(c):
    return nn.GroupNorm(32, c, eps=EPS)


def conv3x3(c_in, c_out, stride=1):
    return nn.Conv2d(c_in, c_out, 3, stride, 1)


class Pointwise(nn.Conv1d):
    """A 1x1 convolution of images whose weight is [out, in, 1]."""

    def __init__(self, c_in, c_out):
        super().__init__(c_in, c_out, 1)

    def forward(self, x):
        return F.conv2d(x, self.weight[..., None], self.bias)


class ResBlock(nn.Module):
    """`emb` is given after its SiLU, which is the same in every block."""

    def __init__(self, c_in, c_out, emb, scale_shift, resample=None):
        super().__init__()
        self.in_layers = nn.Sequential(norm(c_in), nn.SiLU(), conv3x3(c_in, c_out))
        self.emb_layers = nn.Sequential(nn.Identity(), nn.Linear(emb, 2 * c_out if scale_shift else c_out))
        self.out_layers = nn.Sequential(norm(c_out), nn.SiLU(), nn.Identity(), conv3x3(c_out, c_out))
        self.skip_connection = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.scale_shift, self.resample = scale_shift, resample

    def change_size(self, x):
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x, emb):
        h = self.in_layers[2](self.change_size(F.silu(self.in_layers[0](x))))
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + e)
        return self.out_layers[3](F.silu(h)) + self.skip_connection(self.change_size(x))


class Attention(nn.Module):
    def __init__(self, c, heads, new_order):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm, self.qkv, self.proj_out = norm(c), Pointwise(c, 3 * c), Pointwise(c, c)

    def forward(self, x, emb):
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x))
        if self.new_order:
            qkv = qkv.reshape(n, 3, self.heads, c // self.heads, h * w).transpose(1, 2)
        else:
            qkv = qkv.reshape(n, self.heads, 3, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(y.transpose(-1, -2).reshape(n, c, h, w))


class Downsample(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.op = conv3x3(c, c, 2)

    def forward(self, x, emb):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = conv3x3(c, c)

    def forward(self, x, emb):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class First(nn.Conv2d):
    def forward(self, x, emb):
        return super().forward(x)


def embedding(c, emb):
    return nn.Sequential(nn.Linear(c, emb), nn.SiLU(), nn.Linear(emb, emb))


def cells(x, p):
    """Pixels of a cell as channels: (dy p + dx) c + k. Channels last, as in the following ops."""
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h // p, p, w // p, p, c).transpose(2, 3)
    return x.reshape(n, h // p, w // p, p * p * c).permute(0, 3, 1, 2)


def pixels(x, p):
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h, w, p, p, c // (p * p)).transpose(2, 3)
    return x.reshape(n, h * p, w * p, c // (p * p)).permute(0, 3, 1, 2)


class UNet(nn.Module):
    def __init__(self, arch):
        super().__init__()
        a = self.arch = whole_arch(arch)
        c0, patch, blocks = a["num_channels"], a["patch"], a["num_res_blocks"]
        emb, widths = 4 * c0, [c0 * m for m in numbers(a["channel_mult"])]
        rates = {a["image_size"] // side for side in numbers(a["attention_resolutions"])}

        def res(c_in, c_out, resample=None):
            return ResBlock(c_in, c_out, emb, a["use_scale_shift_norm"], resample)

        def attention(c):
            heads = a["num_heads"] if a["num_head_channels"] == -1 else c // a["num_head_channels"]
            return Attention(c, heads, a["use_new_attention_order"])

        def stage(c_in, c_out):
            return [res(c_in, c_out)] + ([attention(c_out)] if rate in rates else [])

        self.time_embed = embedding(c0, emb)
        self.sigma_embed = embedding(c0, emb) if a["sigma_cond"] else None
        self.level_embed = embedding(c0, emb) if a["level_cond"] else None
        self.label_emb = nn.Embedding(a["num_classes"], emb) if a["class_cond"] else None
        inputs = (6 if a["noise"] == "channels" else 3) * patch * patch
        down, up, c, rate, skips = [[First(inputs, widths[0], 3, padding=1)]], [], widths[0], patch, [widths[0]]
        for level, width in enumerate(widths):
            for _ in range(blocks):
                down.append(stage(c, width))
                c = width
                skips.append(c)
            if level + 1 < len(widths):
                down.append([res(c, c, "down") if a["resblock_updown"] else Downsample(c)])
                skips.append(c)
                rate *= 2
        middle = [res(c, c), attention(c) if a["middle_attention"] else None, res(c, c)]
        for level, width in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                part = stage(c + skips.pop(), width)
                c = width
                if level and i == blocks:
                    part.append(res(c, c, "up") if a["resblock_updown"] else Upsample(c))
                    rate //= 2
                up.append(part)
        self.input_blocks = nn.ModuleList(nn.ModuleList(part) for part in down)
        # The names of the others do not change where the middle has no attention.
        self.middle_block = nn.ModuleDict({str(i): m for i, m in enumerate(middle) if m is not None})
        self.output_blocks = nn.ModuleList(nn.ModuleList(part) for part in up)
        self.out = nn.Sequential(norm(c), nn.SiLU(), conv3x3(c, (6 if a["learn_sigma"] else 3) * patch * patch))

    def sinusoids(self, v):
        half = self.arch["num_channels"] // 2
        frequency = torch.exp(torch.arange(half, device=v.device) * (-math.log(1e4) / half))
        angle = v.float()[:, None] * frequency
        return torch.cat([angle.cos(), angle.sin()], 1).to(self.time_embed[0].weight.dtype)

    def forward(self, x, t, label=None, sigma=None, level=None, seen=None):
        """t, sigma, level: [n], the values for the sinusoids: 0..999, 1000 sigma, level_gain *
        level. `seen`: a dict that receives the value of every block."""
        def keep(name, value):
            if seen is not None:
                seen[name] = value
            return value

        patch = self.arch["patch"]
        with torch.autocast(x.device.type, enabled=False):  # a few numbers that all blocks depend on
            emb = keep("time_embed", self.time_embed(self.sinusoids(t)))
            if self.sigma_embed is not None:
                emb = emb + self.sigma_embed(self.sinusoids(sigma))
            if self.level_embed is not None:
                emb = emb + self.level_embed(self.sinusoids(level))
            if self.label_emb is not None:
                emb = emb + self.label_emb(label)
            emb = F.silu(emb)
        h, skips = cells(x, patch) if patch > 1 else x, []
        for i, part in enumerate(self.input_blocks):
            for layer in part:
                h = layer(h, emb)
            skips.append(keep(f"input_blocks.{i}", h))
        for layer in self.middle_block.values():
            h = layer(h, emb)
        keep("middle_block", h)
        for i, part in enumerate(self.output_blocks):
            h = torch.cat([h, skips.pop()], 1)
            for layer in part:
                h = layer(h, emb)
            keep(f"output_blocks.{i}", h)
        h = self.out(h)
        return pixels(h, patch) if patch > 1 else h
