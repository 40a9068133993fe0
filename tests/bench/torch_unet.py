"""The ADM UNet of engine/README.md section 2 in plain PyTorch, for timing beside `david bench`. Random weights."""
import math

import torch
import torch.nn.functional as F
from torch import nn

ARCHS = {
    "ffhq256": dict(image_size=256, channels=128, blocks=1, mult=(1, 1, 2, 2, 4, 4), attention=(16,), head=64),
    "imagenet256": dict(image_size=256, channels=256, blocks=2, mult=(1, 1, 2, 2, 4, 4), attention=(32, 16, 8),
                        head=64),
}


class ResBlock(nn.Module):
    def __init__(self, c_in, c_out, emb, resample=None):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, c_in), nn.GroupNorm(32, c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.emb = nn.Linear(emb, 2 * c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.resample = resample

    def change_size(self, x):
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x, emb):
        h = self.conv1(self.change_size(F.silu(self.norm1(x))))
        scale, shift = self.emb(F.silu(emb))[:, :, None, None].chunk(2, 1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return h + self.skip(self.change_size(x))


class Attention(nn.Module):
    def __init__(self, c, head):
        super().__init__()
        self.heads = c // head
        self.norm = nn.GroupNorm(32, c)
        self.qkv, self.out = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x, emb):
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, self.heads, 3, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(-1, -2).reshape(n, c, h, w))


class UNet(nn.Module):
    def __init__(self, image_size, channels, blocks, mult, attention, head):
        super().__init__()
        emb, widths = 4 * channels, [channels * m for m in mult]
        rates = {image_size // side for side in attention}
        self.channels = channels
        self.embed = nn.Sequential(nn.Linear(channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.first = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c, rate, skips = widths[0], 1, [widths[0]]

        def stage(c_in, c_out):
            part = [ResBlock(c_in, c_out, emb)]
            return part + ([Attention(c_out, head)] if rate in rates else [])

        for level, width in enumerate(widths):
            for _ in range(blocks):
                self.down.append(nn.ModuleList(stage(c, width)))
                c = width
                skips.append(c)
            if level + 1 < len(widths):
                self.down.append(nn.ModuleList([ResBlock(c, c, emb, "down")]))
                skips.append(c)
                rate *= 2
        self.middle = nn.ModuleList([ResBlock(c, c, emb), Attention(c, head), ResBlock(c, c, emb)])
        for level, width in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                part = stage(c + skips.pop(), width)
                c = width
                if level and i == blocks:
                    part.append(ResBlock(c, c, emb, "up"))
                    rate //= 2
                self.up.append(nn.ModuleList(part))
        self.norm, self.last = nn.GroupNorm(32, c), nn.Conv2d(c, 6, 3, padding=1)

    def forward(self, x, t):
        half = self.channels // 2
        freq = torch.exp(torch.arange(half, device=x.device) * (-math.log(1e4) / half))
        angle = t.float()[:, None] * freq
        emb = self.embed(torch.cat([angle.cos(), angle.sin()], 1).to(x.dtype))
        h = self.first(x)
        skips = [h]
        for part in self.down:
            for layer in part:
                h = layer(h, emb)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, emb)
        for part in self.up:
            h = torch.cat([h, skips.pop()], 1)
            for layer in part:
                h = layer(h, emb)
        return self.last(F.silu(self.norm(h)))
