"""Trains a prior or a restorer in PyTorch on a GPU, and writes a model file for `david inspect`,
`david eval --model` and `david train --init`.

  train_torch.py prior    --data DIR --out FILE --arch JSON --steps N
  train_torch.py restorer --data DIR --out FILE --arch JSON --task denoise:3,sr4:2
                          --objective regression --steps N [--init FILE]

Networks, first weights, tasks and their ranges, objectives, AdamW, the running average and
the learning rate schedule are those of `david train` (engine/README.md sections 2, 5, 9); so
are the names of the options. Differences: all photographs are decoded at the start into the
device's memory, where crops, flips and measurements are made (train_rows.py; JPEG is imitated
there, not called); draws are others; networks run in bfloat16 by autocast (weights,
embeddings and losses in float32); a line of JSON has the means of --log-every steps. The
objective davi is not available.

A run is saved in FILE.state (--state), every --save-minutes and at its end: at --steps, after
--minutes, or by SIGTERM. The same command continues it, with the same draws as without the
stop. Each time FILE is written with the average of the weights, and FILE.best with the best
one on --validate. For calls of ten minutes: --minutes 9. On another machine only FILE can be
used: start with --init FILE and a --warmup.

Needs torch, numpy, Pillow and this tree. Dry run without a GPU: --device cpu --dtype f32, a
small --arch and --size 32; RESULTS.md describes one.
"""
import argparse
import copy
import hashlib
import json
import math
import os
import pathlib
import signal
import sys
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from tensors import read_safetensors, write_safetensors  # noqa: E402
from torch_davi import Schedule, at, begin, energy, grow, hybrid, predict, regression  # noqa: E402
from torch_unet import ARCHS, UNet, whole_arch  # noqa: E402
from train_rows import MARGIN, WITH_SURROUNDINGS, Photos, Rows, read_tasks  # noqa: E402

SAMPLES, VALIDATION_SEED, VALIDATION_ROWS = 8, 20241125, 8
AVERAGE_EVERY, AVERAGE_AFTER = 5, 100


def weighted(text, what):
    """{"denoise": 3.0, ...} from "denoise:3,sr4"."""
    found = {}
    for part in text.split(","):
        name, _, weight = part.partition(":")
        found[name] = float(weight or 1)
        if not name or found[name] <= 0:
            raise SystemExit(f"{what} = {text}: not a list of names and weights above 0")
    return found


def rate_at(o, step):
    """Rises over the first steps, then is constant, then falls along a cosine."""
    if step < o.warmup:
        return o.lr * (step + 1) / o.warmup
    if step + o.decay < o.steps or o.decay == 0:
        return o.lr
    part = min((step + o.decay - o.steps) / o.decay, 1)
    return o.lr_end + 0.5 * (o.lr - o.lr_end) * (1 + math.cos(math.pi * part))


def average_decay(updates, most):
    if updates <= AVERAGE_AFTER:
        return 0.0
    return min(1 - (updates - AVERAGE_AFTER) ** (-2 / 3), most)


def label_tasks(tasks, arch, from_file):
    """Labels of the file from which the run starts; for other tasks the lowest free one."""
    taken = {t["label"] for t in from_file.values() if t.get("label") is not None}
    for task in tasks:
        task["label"] = -1
        if arch["class_cond"]:
            label = from_file.get(task["name"], {}).get("label")
            task["label"] = min(set(range(arch["num_classes"])) - taken) if label is None else label
            taken.add(task["label"])
    return tasks


def choose_tasks(o, arch, from_file):
    table, tasks = read_tasks(), []
    for name, weight in weighted(o.task, "task").items():
        if name not in table:
            raise SystemExit(f"there is no task {name} in engine/davi/tasks.def; there are: {', '.join(table)}")
        t = {**table[name], "weight": weight}
        if o.h >= 0:
            t["h"] = o.h
        t["sigma_range"] = [t["sigma_low"], t["sigma_high"]] if arch["sigma_cond"] else [t["sigma"]] * 2
        t["level_range"] = [t["level_low"], t["level_high"]] if arch["level_cond"] else [t["level"]] * 2
        tasks.append(t)
    return label_tasks(tasks, arch, from_file)


class Run:
    def __init__(self, o):
        self.o, self.step, self.best, self.stops = o, 0, 0.0, False
        self.is_prior = o.kind == "prior"
        tensors, meta = read_safetensors(o.init) if o.init else ({}, {})
        text = o.arch or meta.get("david.arch")
        if not text:
            raise SystemExit("--arch or --init is needed")
        self.arch_json = ARCHS[text] if text in ARCHS else json.loads(pathlib.Path(text).read_text() if os.path.exists(text) else text)
        self.arch = whole_arch(self.arch_json)
        self.side = o.size or self.arch["image_size"]
        self.schedule_kind = json.loads(meta.get("david.schedule", '"davi"'))
        self.schedule = Schedule(self.schedule_kind, o.device)
        self.parent = hashlib.sha256(pathlib.Path(o.init).read_bytes()).hexdigest() if o.init else None
        torch.manual_seed(o.seed)
        net = begin(UNet(self.arch))
        if tensors:
            grow(net, tensors)
        self.net = net.to(o.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.model = torch.compile(self.net, mode=o.compile_mode) if o.compile else self.net
        self.parameters = list(self.net.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, o.lr, weight_decay=o.weight_decay, fused=o.device == "cuda")
        self.tasks = [] if self.is_prior else choose_tasks(o, self.arch, json.loads(meta.get("david.tasks", "{}")))
        self.objective = {} if self.is_prior else weighted(o.objective, "objective")
        if not set(self.objective) <= {"regression", "energy"}:
            raise SystemExit(f"objective = {o.objective}: regression or energy is needed")
        self.in_pairs = "energy" in self.objective
        if self.in_pairs and (o.batch % 2 or self.side % 8):
            raise SystemExit("the energy score needs an even batch and crops of a multiple of 8 px")
        self.rows = self.rows_of(o.data, self.side)
        self.validation = self.rows_of(o.validate, 2 * self.side) if o.validate and self.tasks else None
        self.load()

    def rows_of(self, folder, side):
        has_margin = any(t["operator"] in WITH_SURROUNDINGS for t in self.tasks)
        photos = Photos(folder, side + 2 * MARGIN * has_margin, self.o.device)
        self.say(f"{folder}: {len(photos.width)} photographs, {photos.left_out} left out, {photos.pixels.numel() >> 20} MiB")
        return Rows(photos, self.arch, self.tasks, side, self.o.jitter, self.o.texture)

    def say(self, text):
        print(f"train_torch: {text}", file=sys.stderr, flush=True)

    def cast(self):
        return torch.autocast(self.o.device, dtype=torch.bfloat16, enabled=self.o.dtype == "bf16")

    # ---- steps ----

    def losses(self):
        """The terms by name; the first is the one that is minimised."""
        n, device = self.o.batch, self.o.device
        self.rows.begin(self.o.seed, self.step)
        if self.is_prior:
            x = self.rows.clean(n)
            t = torch.from_numpy(self.rows.rng.integers(0, 1000, n)).to(device)
            noise = self.rows.normals(x.shape)
            x_t = at(self.schedule.of_x, t) * x + at(self.schedule.of_noise, t) * noise
            with self.cast():
                out = self.model(self.laid(x_t), t)
            mse, vb = hybrid(self.schedule, out.float(), x, x_t, t, noise)
            return {"loss": mse + vb, "mse": mse, "vb": vb}
        x, y_in, hz, told = self.rows.draw(n, self.in_pairs)
        pred = self.answer(self.model, y_in, hz, told)
        terms, o = {}, self.o
        if "regression" in self.objective:
            terms["regression"] = regression(pred, x, o.l2)
        if "energy" in self.objective:
            terms["energy"] = energy(pred, x, o.energy_norm)
        return {"total": sum(self.objective[k] * v for k, v in terms.items()), **terms}

    def laid(self, x):
        return x.contiguous(memory_format=torch.channels_last)

    def answer(self, net, y_in, hz, told):
        t = torch.full((len(y_in),), 999, device=self.o.device)
        with self.cast():
            return predict(net, self.arch, self.schedule, self.laid(y_in), t, hz, **told)

    def one_step(self):
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.o, self.step)
        terms = self.losses()
        next(iter(terms.values())).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.o.clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            decay = average_decay(self.step, self.o.average_decay)
            torch._foreach_lerp_(list(self.average.parameters()), [p.detach() for p in self.parameters], 1 - decay)
        name = "gradient" if self.is_prior else "generator_gradient"
        return {**{k: v.detach() for k, v in terms.items()}, name: norm}

    def run(self):
        o, began = self.o, time.monotonic()
        saved = logged = began
        sums, count = {}, 0
        while self.step < o.steps and not self.stops:
            for name, value in self.one_step().items():
                sums[name] = sums.get(name, 0) + value
            count += 1
            is_last = self.step == o.steps or self.stops
            if self.step % o.log_every == 0 or is_last:
                self.log({k: float(v) / count for k, v in sums.items()}, count * o.batch / (time.monotonic() - logged))
                sums, count = {}, 0
                now = time.monotonic()
                self.stops = self.stops or (o.minutes and now - began > 60 * o.minutes)
                if self.stops or is_last or now - saved > 60 * o.save_minutes:
                    self.save()
                    saved = time.monotonic()
                logged = time.monotonic()
            if self.validation and (self.step % o.validate_every == 0 or is_last):
                before = time.monotonic()
                self.validate()
                logged += time.monotonic() - before
        self.say(f"{o.out}: step {self.step} of {o.steps}")

    def log(self, means, rate):
        print(json.dumps({"step": self.step, "steps": self.o.steps, "images_per_second": round(rate, 2), **means}), flush=True)
        bad = [k for k, v in means.items() if not abs(v) < 1e4]
        if bad:
            raise SystemExit(f"step {self.step}: {bad[0]} = {means[bad[0]]}: training has exploded; {self.o.state} is of before")

    # ---- validation ----

    @torch.no_grad()
    def validate(self):
        o, scores = self.o, {}
        for k, task in enumerate(self.tasks):
            samples, found = SAMPLES if task["h"] > 0 else 1, []
            for first in range(0, o.validate_crops, VALIDATION_ROWS):
                self.validation.begin(VALIDATION_SEED, first)
                x, y_in, h, told = self.validation.of_task(k, min(VALIDATION_ROWS, o.validate_crops - first), middle=True)
                all_samples = torch.stack([self.answer(self.average, y_in, h * self.validation.normals(x.shape) if task["h"] > 0 else None, told)
                                           .clamp(-1, 1) for _ in range(samples)])
                mean, psnr = all_samples.mean(0), lambda v: 10 * torch.log10(4 / ((v - x)**2).mean((1, 2, 3)))
                covered = ((x - mean).abs() <= all_samples.std(0)).float().mean((1, 2, 3)) if samples > 1 else torch.full((len(x),), math.nan)
                found.append(torch.stack([psnr(all_samples[0]), psnr(mean), covered.to(x.device)]))
            psnr, mean_psnr, coverage = torch.cat(found, 1).mean(1).tolist()
            scores[task["name"]] = {"psnr": round(psnr, 4), "mean_psnr": round(mean_psnr, 4),
                                    "coverage": None if math.isnan(coverage) else round(coverage, 4)}
        score = sum(s["mean_psnr"] for s in scores.values()) / len(scores)
        is_best = score > self.best
        print(json.dumps({"step": self.step, "score": round(score, 4), "best": is_best, "validation": scores}), flush=True)
        if is_best:
            self.best = score
            self.write_model(o.out + ".best", {"score": round(score, 4), "step": self.step, "validation": scores})

    # ---- files ----

    def settings(self):
        """The settings that must be equal when a run is continued."""
        o, names = self.o, ("kind", "task", "objective", "l2", "energy_norm", "h", "batch", "seed", "jitter", "texture", "weight_decay",
                            "average_decay", "clip", "dtype")
        return {"arch": self.arch, "size": self.side, "data": self.rows.photos.digest, **{n: getattr(o, n) for n in names}}

    def save(self):
        state = {"settings": self.settings(), "parent": self.parent, "step": self.step, "best": self.best, "net": self.net.state_dict(),
                 "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, self.o.state + ".part")
        os.replace(self.o.state + ".part", self.o.state)
        self.write_model(self.o.out)

    def load(self):
        if not os.path.exists(self.o.state):
            return
        state = torch.load(self.o.state, map_location=self.o.device, weights_only=True)
        for name, value in self.settings().items():
            if state["settings"][name] != value:
                raise SystemExit(f"{self.o.state}: of another run: {name} = {state['settings'][name]} there, {value} here")
        self.step, self.best, self.parent = state["step"], state["best"], state["parent"]
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.say(f"goes on from {self.o.state}, step {self.step}")

    def write_model(self, path, metrics=None):
        o, photos = self.o, self.rows.photos
        tasks = {}
        for t in self.tasks:
            tasks[t["name"]] = {"sigma": t["sigma"], "h": t["h"], "label": None if t["label"] < 0 else t["label"],
                                "sigma_range": t["sigma_range"]}
            if t["level"] > 0:
                tasks[t["name"]].update(level=t["level"], level_range=t["level_range"])
        provenance = {"data": photos.name, "data_digest": photos.digest, "kind": "prior" if self.is_prior else "davi", "steps": self.step,
                      "batch": o.batch, "size": self.side, "lr": o.lr, "seed": o.seed, "dtype": o.dtype, "parent": self.parent,
                      "made_by": f"train_torch.py, torch {torch.__version__}"}
        if self.tasks:
            provenance.update(objective=o.objective, tasks=o.task, regression="l2" if o.l2 else "l1",
                              energy_distance="norm" if o.energy_norm else "l1", warmup=o.warmup, decay=o.decay, lr_end=o.lr_end, clip=o.clip,
                              average_decay=o.average_decay, weight_decay=o.weight_decay, jitter=o.jitter, texture=o.texture)
        meta = {"david.arch": self.arch_json, "david.role": "prior" if self.is_prior else "restorer",
                "david.tile": {"size": self.side, "overlap": self.side // 8 * 2}, "david.schedule": self.schedule_kind,
                "david.provenance": provenance}
        if tasks:
            meta["david.tasks"] = tasks
        if metrics:
            meta["david.metrics"] = metrics
        weights = {k: v.float().cpu().contiguous().numpy().astype(np.float16 if o.out_dtype == "f16" else np.float32)
                   for k, v in self.average.state_dict().items()}
        write_safetensors(path + ".part", weights, {k: json.dumps(v) for k, v in meta.items()})
        os.replace(path + ".part", path)


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("kind", choices=["prior", "restorer"])
    add("--data", required=True, help="the folder of photographs")
    add("--out", required=True, help="the model file")
    add("--state", help="of a run that can go on (OUT.state)")
    add("--arch", help="JSON, a file of it, or a published name; without it that of --init")
    add("--init", help="a model file to begin from, whose network may have less than --arch")
    add("--task", default="denoise")
    add("--objective", default="regression", help="regression, energy, or a sum such as energy:1,regression:0.5")
    add("--l2", action="store_true")
    add("--energy-norm", action="store_true")
    add("--size", type=int, help="side of a crop, px (the architecture's)")
    add("--steps", type=int, default=10000)
    add("--batch", type=int, default=64)
    add("--lr", type=float, default=1e-3)
    add("--lr-end", type=float, default=0)
    add("--warmup", type=int, default=500)
    add("--decay", type=int, default=0, help="last steps, over which the rate falls along a cosine")
    add("--clip", type=float, default=1)
    add("--average-decay", type=float, default=0.999)
    add("--weight-decay", type=float, default=0.001)
    add("--h", type=float, default=-1, help="of the sampler's noise (the task's)")
    add("--seed", type=int, default=0)
    add("--jitter", type=float, default=2)
    add("--texture", type=float, default=8)
    add("--validate", help="a folder to score, and keep the best by")
    add("--validate-every", type=int, default=1000)
    add("--validate-crops", type=int, default=16)
    add("--log-every", type=int, default=100, help="steps; time and signals are looked at then")
    add("--minutes", type=float, default=0, help="after which the run is kept and ends (0: none)")
    add("--save-minutes", type=float, default=3)
    add("--device", default="cuda", choices=["cuda", "cpu"])
    add("--dtype", default="bf16", choices=["bf16", "f32"])
    add("--out-dtype", default="f32", choices=["f32", "f16"], help="of the model file")
    add("--compile", action="store_true")
    add("--compile-mode", default="default", help="of torch.compile")
    o = p.parse_args()
    o.state = o.state or o.out + ".state"
    return o


def main():
    o = options()
    torch.backends.cudnn.benchmark = True
    if o.device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    run = Run(o)

    def stop(number, frame):
        run.stops = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    run.run()


if __name__ == "__main__":
    main()
