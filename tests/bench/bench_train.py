"""`david train` and the same steps in PyTorch, side by side in one run, the two taking turns: a prior's step and a DAVI iteration.

  python bench_train.py --david build/david --data DIR [--dtype f32,bf16] [--batch 8] [--threads N] [--steps N] [--rounds N]
Needs torch (bf16: its automatic mixed precision, weights and statistics in F32; both: channels_last, fused AdamW). The network is
that of models/default.safetensors. Losses are computed in full in both; PyTorch's pictures are random and in memory already, david
crops and degrades its own, of the first dozen of the folder's, which it has decoded after a few steps that do not count. --compile: PyTorch's networks compiled too; the faster of the two is what david is held against
(run it twice: the first run fills the compiler's cache). Not part of any test run. Writes one JSON object a line."""
import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import nn

from torch_unet import UNet

ARCH = dict(image_size=64, channels=32, blocks=1, mult=(1, 2, 3, 4), attention=(16, 8), head=32)
ARCH_JSON = json.dumps({
    "image_size": 64, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2,3,4", "learn_sigma": True,
    "class_cond": False, "attention_resolutions": "16,8", "num_heads": 4, "num_head_channels": 32,
    "use_scale_shift_norm": True, "resblock_updown": True, "use_new_attention_order": False})
SIDE = 64
PICTURES, WARM = 12, 4  # of david's
LN2 = 0.6931471805599453

beta = torch.linspace(1e-4 ** 0.5, 0.02 ** 0.5, 1000, dtype=torch.float64) ** 2
kept = torch.cumprod(1 - beta, 0)
before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
tilde = beta * (1 - before) / (1 - kept)
tilde[0] = tilde[1]
bridge = torch.cat([beta[:500], beta[:500].flip(0)])
std_fwd = torch.cumsum(bridge, 0).sqrt()
std_bwd = std_fwd.flip(0)
mu0 = std_bwd ** 2 / (std_fwd ** 2 + std_bwd ** 2)


def at(table, t):
    return table.float()[t][:, None, None, None]


class PatchGAN(nn.Module):
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


def hybrid(out, x0, x_t, t, noise):
    eps, v = out[:, :3], out[:, 3:]
    mse = ((noise - eps) ** 2).mean()
    f = (v + 1) / 2
    log_true = at(tilde.log(), t)
    log_var = f * at(beta.log(), t) + (1 - f) * log_true
    c1, c2 = at(beta * before.sqrt() / (1 - kept), t), at((1 - before) * (1 - beta).sqrt() / (1 - kept), t)
    guess = at((1 / kept).sqrt(), t) * x_t - at((1 / kept - 1).sqrt(), t) * eps.detach()
    kl = 0.5 * (-1 + log_var - log_true + (log_true - log_var).exp() + (c1 * (x0 - guess)) ** 2 * (-log_var).exp())
    return mse + kl.mean() / LN2  # t = 0 is left out: one row of a thousand


class Torch:
    """Both kinds of step, as a user of PyTorch would write them."""

    def __init__(self, batch, dtype, compiled=False):
        self.batch, self.amp = batch, dtype == "bf16"
        torch._functorch.config.donated_buffer = False  # the gradients behind lambda go through one graph twice
        whole = torch.compile if compiled else lambda net: net
        new = lambda: UNet(**ARCH).to(memory_format=torch.channels_last)
        self.gen, self.score, self.teacher = whole(new()), whole(new()), whole(new().requires_grad_(False))
        self.disc = whole(PatchGAN().to(memory_format=torch.channels_last))
        step = lambda net: torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
        self.opt = {n: step(n) for n in (self.gen, self.score, self.disc)}
        self.ema = [p.detach().clone() for p in self.gen.parameters()]
        self.count = 0
        picture = lambda: torch.randn(batch, 3, SIDE, SIDE).clamp(-1, 1).contiguous(memory_format=torch.channels_last)
        self.x, self.y = picture(), picture()

    def cast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.amp)

    def noise(self):
        return torch.randn_like(self.x)

    def run(self, net, x, t):
        with self.cast():
            return net(x, t).float()

    def update(self, net, loss):
        loss.backward()
        torch.nn.utils.get_total_norm([p.grad for p in net.parameters()])
        self.opt[net].step()
        self.opt[net].zero_grad()

    def follow(self):
        self.count += 1
        if self.count % 5 == 0:
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.gen.parameters()], 0.01)

    def prior(self):
        t, noise = torch.randint(0, 1000, (self.batch,)), self.noise()
        x_t = at(kept.sqrt(), t) * self.x + at((1 - kept).sqrt(), t) * noise
        self.update(self.gen, hybrid(self.run(self.gen, x_t, t), self.x, x_t, t, noise))
        self.follow()

    def predict(self):
        t = (1000 * torch.rand(self.batch) ** (1 / 3) - 0.5).floor().clamp(0, 999).long()
        x_q = at(mu0, t) * self.x + at(1 - mu0, t) * self.y + at((1 - kept) * 0.1, t) * self.noise()
        return torch.tanh(x_q - at(std_fwd, t) * self.run(self.gen, x_q, t)[:, :3])

    def judge(self, x):
        with self.cast():
            return [o.float() for o in self.disc(x)]

    def davi(self):
        with torch.no_grad():
            pred = self.predict()
        t, noise = torch.randint(0, 1000, (self.batch,)), self.noise()
        x_t = at(kept.sqrt(), t) * pred + at((1 - kept).sqrt(), t) * noise
        self.update(self.score, hybrid(self.run(self.score, x_t, t), pred, x_t, t, noise))
        self.update(self.disc, 0.5 * (F.relu(1 - self.judge(self.x)[-1]).mean() + F.relu(1 + self.judge(pred)[-1]).mean()))

        pred = self.predict()
        t, noise = torch.randint(0, 1000, (self.batch,)), self.noise()
        with torch.no_grad():
            x_t = at(kept.sqrt(), t) * pred + at((1 - kept).sqrt(), t) * noise
            field = self.run(self.teacher, x_t, t)[:, :3] - self.run(self.score, x_t, t)[:, :3]
            real = self.judge(self.x)
        fake = self.judge(pred)
        ikl, con, truth = (field * pred).mean(), ((self.y - pred) ** 2).mean(), ((self.x - pred) ** 2).mean()
        gan = -fake[-1].mean() + sum((a - b).abs().mean() for a, b in zip(fake[:4], real[:4]))
        w = self.gen.up[-1][0].conv2.weight
        of_truth = torch.autograd.grad(truth, w, retain_graph=True)[0].norm()
        of_gan = torch.autograd.grad(gan, w, retain_graph=True)[0].norm()
        weight = (of_truth / (of_gan + 1e-4)).clamp(0.01, 10).detach()
        self.update(self.gen, ikl + 0.2 * con + 0.1 * truth + weight * gan)
        self.opt[self.disc].zero_grad()
        self.follow()


def torch_rate(args, kind, dtype, compiled=False):
    torch.set_num_threads(args.threads)
    net = Torch(args.batch, dtype, compiled)
    step = net.prior if kind == "prior" else net.davi
    for _ in range(3 if compiled else 1):
        step()
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return args.batch / statistics.median(times)


def david_rate(args, kind, dtype, folder, prior):
    out = os.path.join(folder, "out.safetensors")
    what = (["--arch", ARCH_JSON] if kind == "prior" else ["--prior", prior, "--task", "denoise"])
    subprocess.run(["rm", "-rf", out + ".checkpoints"], check=True)
    text = subprocess.run(
        [args.david, "train", kind, "--data", args.data, "--out", out, "--steps", str(args.steps + WARM), "--batch",
         str(args.batch), "--micro-batch", str(args.batch), "--dtype", dtype, "--threads", str(args.threads),
         "--checkpoint-every", "1000000", "--json", *what], capture_output=True, check=True).stdout
    lines = [json.loads(line) for line in text.splitlines()][WARM:]
    return statistics.median(line["images_per_second"] for line in lines)


def in_child(function, *args):
    """Its result and the most memory it held, in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        rate = function(*args)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN if function is david_rate else resource.RUSAGE_SELF)
        os.write(write, json.dumps([rate, usage.ru_maxrss / 1024]).encode())
        os._exit(0)
    os.close(write)
    text = os.read(read, 1 << 16)
    os.waitpid(child, 0)
    return json.loads(text)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--david", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--kind", default="prior,davi")
    p.add_argument("--dtype", default="f32,bf16")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--compile", action="store_true")
    args = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        prior, pictures = (os.path.join(folder, name) for name in ("prior.safetensors", "pictures"))
        os.mkdir(pictures)
        for name in sorted(n for n in os.listdir(args.data) if n.lower().endswith((".png", ".jpg", ".jpeg")))[:PICTURES]:
            shutil.copy(os.path.join(args.data, name), pictures)
        args.data = pictures
        subprocess.run([args.david, "train", "prior", "--data", args.data, "--arch", ARCH_JSON, "--steps", "1",
                        "--batch", "1", "--out", prior], check=True, capture_output=True)
        for kind in args.kind.split(","):
            for dtype in args.dtype.split(","):
                ours, theirs, whole = [], [], []
                for _ in range(args.rounds):
                    ours.append(in_child(david_rate, args, kind, dtype, folder, prior))
                    theirs.append(in_child(torch_rate, args, kind, dtype))
                    if args.compile:
                        whole.append(in_child(torch_rate, args, kind, dtype, True))
                best = [max([r[0] for r in side], default=0) for side in (ours, theirs, whole)]
                print(json.dumps({
                    "kind": kind, "dtype": dtype, "batch": args.batch, "threads": args.threads,
                    "david_images_per_second": round(best[0], 2), "torch_images_per_second": round(best[1], 2),
                    "compiled_images_per_second": round(best[2], 2),
                    "times_faster": round(best[0] / max(best[1:]), 3), "david_mib": round(max(r[1] for r in ours)),
                    "torch_mib": round(max(r[1] for r in theirs)), "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
