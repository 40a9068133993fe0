"""Times `david train` and the same steps in PyTorch in one run, in which the two alternate: a
step of a prior, an iteration of DAVI and a step of regression.

  python bench_train.py --david build/david --data DIR [--kind prior,davi,regression]
      [--dtype f32,bf16] [--batch 8] [--threads N] [--steps N] [--rounds N] [--compile]

Needs torch (bf16: its automatic mixed precision, weights and statistics in F32; both dtypes:
channels_last, fused AdamW). The network of a prior and of DAVI is that of
models/default.safetensors; that of regression has cells of 2x2 pixels and every condition,
and its batch has several tasks. Both programs compute all losses. PyTorch's images are random
and already in memory; david crops and degrades its own, from the first dozen photographs of
the folder, which it has decoded after a few steps that are not counted. --compile: PyTorch's
networks are compiled too, and david is compared with the faster of the two (run it twice: the
first run fills the compiler's cache). On a machine with other work compare processor_ms, of
david, PyTorch and compiled: the processor time per image, david's with the crops. Not part of
any test run. Writes one JSON object per line.
"""
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

from torch_davi import PatchGAN, Schedule, at, hybrid, predict, regression
from torch_unet import UNet

SMALL = {"image_size": 64, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2,3,4", "learn_sigma": True,
         "class_cond": False, "attention_resolutions": "16,8", "num_heads": 4, "num_head_channels": 32,
         "use_scale_shift_norm": True, "resblock_updown": True, "use_new_attention_order": False}
CELLS = {"image_size": 64, "num_channels": 64, "num_res_blocks": 1, "channel_mult": "1,1,2,2", "attention_resolutions": "",
         "num_head_channels": 32, "learn_sigma": True, "use_scale_shift_norm": True, "resblock_updown": False, "patch": 2,
         "noise": "channels", "output": "linear", "middle_attention": False, "class_cond": True, "num_classes": 16,
         "sigma_cond": True, "level_cond": True}
SIDE = 64
IMAGES, WARM = 12, 4  # of david's
SCHEDULE = Schedule()


class Steps:
    """What all kinds of step have in common, as a user of PyTorch would write it."""

    def __init__(self, batch, dtype, compiled):
        self.batch, self.amp = batch, dtype == "bf16"
        self.whole = torch.compile if compiled else lambda net: net
        self.count, self.opt, self.ema = 0, {}, []
        image = lambda: torch.randn(batch, 3, SIDE, SIDE).clamp(-1, 1).contiguous(memory_format=torch.channels_last)
        self.x, self.y = image(), image()

    def network(self, net, learns=True):
        net = self.whole(net.to(memory_format=torch.channels_last).requires_grad_(learns))
        if learns:
            self.opt[net] = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
        return net

    def cast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.amp)

    def noise(self):
        return torch.randn_like(self.x)

    def run(self, net, *given, **told):
        with self.cast():
            return net(*given, **told).float()

    def update(self, net, loss, clip=None):
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        else:
            torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        self.opt[net].step()
        self.opt[net].zero_grad()

    def follow(self, net):
        self.count += 1
        if not self.ema:
            self.ema = [p.detach().clone() for p in net.parameters()]
        if self.count % 5 == 0:
            torch._foreach_lerp_(self.ema, [p.detach() for p in net.parameters()], 0.01)


class Prior(Steps):
    arch = SMALL

    def __init__(self, *args):
        super().__init__(*args)
        self.net = self.network(UNet(SMALL))

    def step(self):
        t, noise = torch.randint(0, 1000, (self.batch,)), self.noise()
        x_t = at(SCHEDULE.of_x, t) * self.x + at(SCHEDULE.of_noise, t) * noise
        # t = 0 is omitted: one row of a thousand
        self.update(self.net, sum(hybrid(SCHEDULE, self.run(self.net, x_t, t), self.x, x_t, t, noise, with_first=False)))
        self.follow(self.net)


class Davi(Steps):
    arch = SMALL

    def __init__(self, *args):
        super().__init__(*args)
        torch._functorch.config.donated_buffer = False  # the gradients behind lambda use one graph twice
        self.gen, self.score, self.teacher = (self.network(UNet(SMALL), learns) for learns in (True, True, False))
        self.last = self.gen.output_blocks[-1][0].out_layers[3].weight
        self.disc = self.network(PatchGAN())

    def predict(self):
        t = (1000 * torch.rand(self.batch) ** (1 / 3) - 0.5).floor().clamp(0, 999).long()
        x_q = at(SCHEDULE.mu0, t) * self.x + at(1 - SCHEDULE.mu0, t) * self.y
        with self.cast():
            return predict(self.gen, {"noise": "added", "output": "tanh"}, SCHEDULE, x_q, t, 0.1 * self.noise())

    def judge(self, x):
        with self.cast():
            return [o.float() for o in self.disc(x)]

    def step(self):
        with torch.no_grad():
            pred = self.predict()
        t, noise = torch.randint(0, 1000, (self.batch,)), self.noise()
        x_t = at(SCHEDULE.of_x, t) * pred + at(SCHEDULE.of_noise, t) * noise
        self.update(self.score, sum(hybrid(SCHEDULE, self.run(self.score, x_t, t), pred, x_t, t, noise, with_first=False)))
        self.update(self.disc, 0.5 * (F.relu(1 - self.judge(self.x)[-1]).mean() + F.relu(1 + self.judge(pred)[-1]).mean()))

        pred = self.predict()
        t, noise = torch.randint(0, 1000, (self.batch,)), self.noise()
        with torch.no_grad():
            x_t = at(SCHEDULE.of_x, t) * pred + at(SCHEDULE.of_noise, t) * noise
            field = self.run(self.teacher, x_t, t)[:, :3] - self.run(self.score, x_t, t)[:, :3]
            real = self.judge(self.x)
        fake = self.judge(pred)
        ikl, con, truth = (field * pred).mean(), ((self.y - pred) ** 2).mean(), ((self.x - pred) ** 2).mean()
        gan = -fake[-1].mean() + sum((a - b).abs().mean() for a, b in zip(fake[:4], real[:4]))
        of_truth = torch.autograd.grad(truth, self.last, retain_graph=True)[0].norm()
        of_gan = torch.autograd.grad(gan, self.last, retain_graph=True)[0].norm()
        weight = (of_truth / (of_gan + 1e-4)).clamp(0.01, 10).detach()
        self.update(self.gen, ikl + 0.2 * con + 0.1 * truth + weight * gan)
        self.opt[self.disc].zero_grad()
        self.follow(self.gen)


class Regression(Steps):
    arch = CELLS

    def __init__(self, *args):
        super().__init__(*args)
        self.net = self.network(UNet(CELLS))
        self.t = torch.full((self.batch,), 999)

    def step(self):
        told = {"label": torch.randint(0, 16, (self.batch,)), "sigma": 400 * torch.rand(self.batch), "level": 400 * torch.rand(self.batch)}
        with self.cast():
            pred = predict(self.net, CELLS, SCHEDULE, self.y, self.t, **told)
        self.update(self.net, regression(pred, self.x), clip=1)
        self.follow(self.net)


KINDS = {"prior": Prior, "davi": Davi, "regression": Regression}


def torch_rate(args, kind, dtype, compiled=False):
    """Images per second, and milliseconds of processor time per image."""
    torch.set_num_threads(args.threads)
    steps = KINDS[kind](args.batch, dtype, compiled)
    for _ in range(3 if compiled else 1):
        steps.step()
    times, processor = [], time.process_time()
    for _ in range(args.steps):
        start = time.perf_counter()
        steps.step()
        times.append(time.perf_counter() - start)
    return args.batch / statistics.median(times), (time.process_time() - processor) * 1000 / args.steps / args.batch


def david_rate(args, kind, dtype, folder, prior):
    out = os.path.join(folder, "out.safetensors")
    what = {"prior": ["prior", "--arch", json.dumps(SMALL)], "davi": ["davi", "--prior", prior, "--task", "denoise"],
            "regression": ["davi", "--arch", json.dumps(CELLS), "--task", "denoise,sr4,deblur", "--objective", "regression", "--h", "0",
                           "--clip", "1"]}[kind]
    subprocess.run(["rm", "-rf", out + ".checkpoints"], check=True)
    text = subprocess.run(
        [args.david, "train", *what, "--data", args.data, "--out", out, "--steps", str(args.steps + WARM), "--batch", str(args.batch),
         "--micro-batch", str(args.batch), "--size", str(SIDE), "--dtype", dtype, "--threads", str(args.threads),
         "--checkpoint-every", "1000000", "--json"], capture_output=True, check=True).stdout
    lines = [json.loads(line) for line in text.splitlines()][WARM - 1:]
    processor = lines[-1]["processor_seconds"] - lines[0]["processor_seconds"]
    return statistics.median(line["images_per_second"] for line in lines[1:]), processor * 1000 / args.steps / args.batch


def in_child(function, *args):
    """Runs in a process of its own: its results and its peak memory."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        rates = function(*args)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN if function is david_rate else resource.RUSAGE_SELF)
        os.write(write, json.dumps([*rates, usage.ru_maxrss / 1024]).encode())
        os._exit(0)
    os.close(write)
    text = os.read(read, 1 << 16)
    os.waitpid(child, 0)
    return json.loads(text)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--david", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--kind", default="prior,davi,regression")
    p.add_argument("--dtype", default="f32,bf16")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--compile", action="store_true")
    args = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        prior, images = (os.path.join(folder, name) for name in ("prior.safetensors", "images"))
        os.mkdir(images)
        for name in sorted(n for n in os.listdir(args.data) if n.lower().endswith((".png", ".jpg", ".jpeg")))[:IMAGES]:
            shutil.copy(os.path.join(args.data, name), images)
        args.data = images
        subprocess.run([args.david, "train", "prior", "--data", args.data, "--arch", json.dumps(SMALL), "--steps", "1",
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
                    "times_faster": round(best[0] / max(best[1:]), 3),
                    "processor_ms": [round(min((r[1] for r in side), default=0), 1) for side in (ours, theirs, whole)],
                    "david_mib": round(max(r[2] for r in ours)), "torch_mib": round(max(r[2] for r in theirs)),
                    "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
