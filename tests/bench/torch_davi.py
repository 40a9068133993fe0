"""The method of engine/README.md sections 1, 3, 5 and 9 in plain PyTorch, around a network of
torch_unet.py.

Images are [n][3][h][w] in units of [-1, 1]. Used by the benches, by check_levers.py and by
tests/gpu/train_torch.py.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

LN2 = math.log(2)


class Schedule:
    """The constants of section 1, [1000] each. kept: the running product of 1 - beta."""

    def __init__(self, kind="davi", device="cpu"):
        f64 = dict(dtype=torch.float64)
        beta = torch.linspace(1e-4, 0.02, 1000, **f64) if kind == "linear" else torch.linspace(1e-2, 0.02**0.5, 1000, **f64)**2
        kept = torch.cumprod(1 - beta, 0)
        before = torch.cat([torch.ones(1, **f64), kept[:-1]])
        tilde = beta * (1 - before) / (1 - kept)
        tilde[0] = tilde[1]
        std_fwd = torch.cumsum(torch.cat([beta[:500], beta[:500].flip(0)]), 0).sqrt()
        std_bwd = std_fwd.flip(0)
        mu0 = std_bwd**2 / (std_fwd**2 + std_bwd**2)
        tables = dict(beta=beta, kept=kept, before=before, tilde=tilde, std_fwd=std_fwd, mu0=mu0, unkept=1 - kept,
                      of_x=kept.sqrt(), of_noise=(1 - kept).sqrt(), log_beta=beta.log(), log_tilde=tilde.log(),
                      one_by=(1 / kept).sqrt(), less_one=(1 / kept - 1).sqrt(), mean_x0=beta * before.sqrt() / (1 - kept),
                      mean_xt=(1 - before) * (1 - beta).sqrt() / (1 - kept))
        for name, table in tables.items():
            setattr(self, name, table.float().to(device))


def at(table, t):
    """A constant for each row, shaped for multiplication with images."""
    return table[t][:, None, None, None]


# ---- answers ----

def predict(net, arch, schedule, x_in, t, hz=None, **told):
    """The generator's answer, unclamped. x_in: y_in or the bridge point; hz: h times z, or None."""
    noise = None if hz is None else at(schedule.unkept, t) * hz
    if arch["noise"] == "channels":
        x = torch.cat([x_in, torch.zeros_like(x_in) if noise is None else noise], 1)
    else:
        x = x_in = x_in if noise is None else x_in + noise
    out = x_in - at(schedule.std_fwd, t) * net(x, t, **told)[:, :3].float()
    return out if arch["output"] == "linear" else torch.tanh(out)


# ---- objectives ----

def regression(pred, x, l2=False):
    return F.mse_loss(pred, x) if l2 else F.l1_loss(pred, x)


def length(v):
    """The Euclidean norm over channels; its slope at 0 is 0."""
    squares = (v * v).sum(1)
    return torch.where(squares > 0, squares, torch.ones_like(squares)).sqrt() * (squares > 0)


def energy(pred, x, norm=False, scales=(1, 2, 4, 8)):
    """Rows 2i and 2i + 1 are two answers to one measurement; x is the same in both."""
    size = (lambda v: length(v).mean()) if norm else (lambda v: v.abs().mean())
    total = 0
    for s in scales:
        a, b, c = (F.avg_pool2d(v, s) if s > 1 else v for v in (pred[0::2], pred[1::2], x[0::2]))
        total = total + 0.5 * (size(a - c) + size(b - c)) - 0.5 * size(a - b)
    return total


def hybrid(schedule, out, x0, x_t, t, noise, with_first=True):
    """mse and vb, the means over rows. with_first: rows of t = 0 use the likelihood of their
    levels, as they should."""
    eps, v = out[:, :3], out[:, 3:]
    mse = ((noise - eps)**2).mean()
    f = (v + 1) / 2
    log_true = at(schedule.log_tilde, t)
    log_var = f * at(schedule.log_beta, t) + (1 - f) * log_true
    c1, c2 = at(schedule.mean_x0, t), at(schedule.mean_xt, t)
    guess = at(schedule.one_by, t) * x_t - at(schedule.less_one, t) * eps.detach()
    kl = 0.5 * (-1 + log_var - log_true + (log_true - log_var).exp() + (c1 * (x0 - guess))**2 * (-log_var).exp())
    if with_first:
        kl = torch.where((t == 0)[:, None, None, None], likelihood(x0, c1 * guess + c2 * x_t, log_var), kl)
    return mse, kl.mean() / LN2


def likelihood(x, mean, log_var):
    """Nats of the level of x, out of 256."""
    def below(u):
        u = u.clamp(-12, 12)  # beyond that it is 0 or 1, and its cube might overflow
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))

    by = (-0.5 * log_var).exp()
    upper, lower = below(by * (x - mean + 1 / 255)), below(by * (x - mean - 1 / 255))
    p = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return -p.clamp(min=1e-12).log()


# ---- weights ----

def begin(net):
    """First weights as in `david train`: PyTorch's own, and zero at the end of a block and for
    weights that the prior lacks."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if any(part in name for part in (".out_layers.3.", ".proj_out.", "sigma_embed.2.", "level_embed.2.")):
                p.zero_()
            elif name.startswith(("out.2.", "label_emb.")):
                p.zero_()
        noiseless(net)
    return net


def noiseless(net):
    """Zeros for the weights of the noise's channels."""
    if net.arch["noise"] == "channels":
        first = net.input_blocks[0][0].weight
        first.view(first.shape[0], -1, 6, *first.shape[2:])[:, :, 3:] = 0


def grow(net, tensors):
    """Loads the weights of a file whose network may have fewer; missing weights keep their first
    values."""
    own = net.state_dict()
    first = "input_blocks.0.0.weight"
    unknown = set(tensors) - set(own)
    if unknown:
        raise ValueError(f"tensor {sorted(unknown)[0]} is not of this architecture")
    with torch.no_grad():
        for name, value in tensors.items():
            value, to = torch.from_numpy(value.astype("float32")), own[name]
            if name == first and net.arch["noise"] == "channels" and value.shape[1] * 2 == to.shape[1]:
                noiseless(net)
                cells = value.view(value.shape[0], -1, 3, *value.shape[2:])
                to.view(to.shape[0], -1, 6, *to.shape[2:])[:, :, :3] = cells
            elif value.shape == to.shape:
                to.copy_(value)
            else:
                raise ValueError(f"tensor {name} is of another architecture")
    return net


# ---- the discriminator ----

class PatchGAN(nn.Module):
    """The outputs of its five blocks."""

    def __init__(self, width=64):
        super().__init__()
        c = [3, width, 2 * width, 4 * width, 8 * width, 1]
        self.conv = nn.ModuleList(nn.Conv2d(c[i], c[i + 1], 4, (2, 2, 2, 1, 1)[i], 2) for i in range(5))
        self.norm = nn.ModuleList(nn.BatchNorm2d(c[i + 1], track_running_stats=False) for i in (1, 2, 3))

    def forward(self, x):
        out = []
        for i, conv in enumerate(self.conv):
            x = conv(x)
            if 0 < i < 4:
                x = self.norm[i - 1](x)
            if i < 4:
                x = F.leaky_relu(x, 0.2)
            out.append(x)
        return out
