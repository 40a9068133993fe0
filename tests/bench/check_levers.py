"""Compares the engine's networks, answers and steps with PyTorch's, for every option of an
architecture (engine/README.md section 9).

  python check_levers.py --david build/david [--only forward,restore,prior,step]
                         [--write tests/golden]

`david` computes forward passes of many small networks, restorations and training steps on its
CPU back end in float32; torch_unet.py, which shares no code with it, computes the same. Noise
and crops are drawn again in numpy. --write makes tests/golden/levers_*.safetensors, numbers
with which the tests of the engine compare; the weights are hashes. Needs torch and Pillow;
not part of any test run.
"""
import argparse
import io
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch

from draws import CONDITIONS, CROP, GENERATOR_Z, MASK, SCORE_NOISE, TASK, TIMES, Dice, measurement_noise, images, sampler_noise
from tensors import hash_parameter, hash_values, read_safetensors, write_safetensors
from torch_davi import Schedule, at, energy, hybrid, predict, regression
from torch_unet import UNet

BASE = dict(image_size=32, num_channels=32, num_res_blocks=1, channel_mult="1,2", attention_resolutions="", num_heads=2,
            num_head_channels=-1, learn_sigma=True, use_scale_shift_norm=True, resblock_updown=True,
            use_new_attention_order=False)
# The value of each option where it is on; all off is a published network.
OPTIONS = dict(noise=dict(noise="channels"), output=dict(output="linear"), classes=dict(class_cond=True, num_classes=7),
               sigma=dict(sigma_cond=True), level=dict(level_cond=True), no_middle=dict(middle_attention=False),
               strided=dict(resblock_updown=False), added=dict(use_scale_shift_norm=False), three=dict(learn_sigma=False),
               attention=dict(attention_resolutions=None), new_order=dict(use_new_attention_order=True))
SEED = 20241201
TOLERANCE = 1e-4
POOLED = {"sr4": 4, "sr2": 2}


class Checks:
    def __init__(self):
        self.worst, self.failed, self.count = {}, [], 0

    def compare(self, what, name, have, want, tolerance=TOLERANCE):
        """max |difference| relative to max |want|."""
        have, want = (np.asarray(v, np.float64) for v in (have, want))
        off = np.abs(have - want).max() / max(np.abs(want).max(), 1e-30)
        self.note(what, name, off, tolerance)

    def note(self, what, name, off, tolerance):
        self.count += 1
        if not off <= self.worst.get(what, (-1, ""))[0]:
            self.worst[what] = (off, name)
        if not off <= tolerance:
            self.failed.append(f"{what} of {name}: {off:.2e}, more than {tolerance:.0e}")

    def report(self):
        for what, (off, name) in self.worst.items():
            print(f"{what:28} worst relative difference {off:.2e} ({name})")
        print("\n".join(self.failed[:20]) or f"{self.count} comparisons are within their tolerances")
        return 1 if self.failed else 0


def arch_of(patch, options):
    arch = {**BASE, "patch": patch}
    for name in options:
        arch.update(OPTIONS[name])
    if arch["attention_resolutions"] is None:
        arch["attention_resolutions"] = str(arch["image_size"] // patch // 2)  # the second level's
    return arch


def weights(net, seed):
    return {name: hash_parameter(name, seed, tuple(p.shape)) for name, p in net.state_dict().items()}


def network(arch, seed):
    """With hash weights; those of the last convolution are small, so that answers stay images."""
    net = UNet(arch)
    tensors = weights(net, seed)
    tensors["out.2.weight"] = tensors["out.2.weight"] * np.float32(0.05)
    net.load_state_dict({name: torch.from_numpy(v) for name, v in tensors.items()})
    return net, tensors


def told_rows(arch, rows, seed):
    """t and the other conditions of the network, different for every row."""
    draw = np.random.default_rng(seed)
    told = {"t": draw.integers(0, 1000, rows)}
    if arch.get("class_cond"):
        told["label"] = draw.integers(0, arch["num_classes"], rows)
    if arch.get("sigma_cond"):
        told["sigma"] = draw.uniform(20, 400, rows).astype(np.float32)
    if arch.get("level_cond"):
        told["level"] = draw.uniform(100, 800, rows).astype(np.float32)
    return told


def as_torch(told):
    return {name: torch.from_numpy(v) for name, v in told.items()}


def model_meta(arch, tasks=None):
    side = arch["image_size"]
    meta = {"david.arch": json.dumps(arch), "david.role": json.dumps("restorer" if tasks else "prior"),
            "david.tile": json.dumps({"size": side, "overlap": side // 4}), "david.schedule": '"davi"'}
    if tasks:
        meta["david.tasks"] = json.dumps(tasks)
    return meta


class David:
    def __init__(self, program):
        self.program = program
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="levers-"))

    def run(self, *args):
        done = subprocess.run([self.program, *map(str, args)], capture_output=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, args))}: {done.stderr.decode()}")
        return done.stdout

    def on_cpu(self, *args):
        return self.run(*args, "--backend", "cpu", "--dtype", "f32", "--threads", 1)


# ---- forward ----

def forward_cases():
    names = list(OPTIONS)
    for patch in (1, 2, 4):
        yield patch, ()
        yield patch, tuple(names)
        for name in names:
            yield patch, (name,)
            yield patch, tuple(n for n in names if n != name)


def check_forward(david, checks):
    model, given, made = (david.folder / n for n in ("model.safetensors", "in.safetensors", "out.safetensors"))
    for i, (patch, options) in enumerate(forward_cases()):
        arch = arch_of(patch, options)
        net, tensors = network(arch, SEED)
        told, rows, h, w = told_rows(arch, 3, i), 3, 8 * patch, 4 * patch
        x = hash_values("x", i, (rows, 6 if "noise" in options else 3, h, w))
        write_safetensors(model, tensors, model_meta(arch))
        write_safetensors(given, {"x": x, **told}, {})
        david.on_cpu("forward", "--model", model, "--in", given, "--out", made)
        with torch.no_grad():
            want = net(torch.from_numpy(x), **as_torch(told)).numpy()
        checks.compare("forward", f"patch {patch}, {' '.join(options) or 'no option'}", read_safetensors(made)[0]["y"], want)


# ---- restorations ----

def restore_tasks(arch, names):
    """Defaults at the upper end of a range, where the grid of conditions has a point."""
    tasks = {}
    for i, name in enumerate(names):
        tasks[name] = {"sigma": 0.2, "h": 0.1, "label": i if arch.get("class_cond") else None, "sigma_range": [0.02, 0.2]}
        if name == "deblur":
            tasks[name].update(level=4, level_range=[1, 4])
    return tasks


def resized(y, by):
    return torch.nn.functional.interpolate(y, scale_factor=by, mode="bilinear", align_corners=False)


def check_restore(david, checks):
    from PIL import Image
    model, given, made = (david.folder / n for n in ("model.safetensors", "in.png", "out.png"))
    all_options = tuple(n for n in OPTIONS if n not in ("added", "three"))
    some = [(1, ()), (1, all_options), (2, ()), (2, all_options), (2, ("noise", "sigma")), (4, ("output", "classes")), (4, all_options)]
    for i, ((patch, options), task) in enumerate(itertools.product(some, ("denoise", "sr4", "deblur", "colorize", "sr2"))):
        arch = arch_of(patch, options)
        net, tensors = network(arch, SEED + i)
        names = ["sr4", "denoise", "colorize", "deblur", "sr2"]
        tasks = restore_tasks(arch, names)
        side = arch["image_size"]
        measured_side, channels = side // POOLED.get(task, 1), (1 if task == "colorize" else 3)
        image = np.random.default_rng(i).integers(0, 256, (measured_side, measured_side, channels), np.uint8)
        Image.fromarray(image.squeeze()).save(given)
        write_safetensors(model, tensors, model_meta(arch, tasks))
        david.on_cpu("restore", "--model", model, "--task", task, "--seed", 77 + i, given, made)
        y = torch.from_numpy((image / 127.5 - 1).astype(np.float32)).permute(2, 0, 1)[None]
        y = y.expand(1, 3, -1, -1) if task == "colorize" else resized(y, POOLED[task]) if task in POOLED else y
        told = {"label": [names.index(task)], "sigma": [200.0], "level": [400.0 if task == "deblur" else 0.0]}
        told = {k: torch.tensor(v) for k, v in told.items() if arch.get({"label": "class_cond"}.get(k, k + "_cond"))}
        hz = 0.1 * torch.from_numpy(sampler_noise(77 + i, 0, side))
        with torch.no_grad():
            x = predict(net, net.arch, Schedule(), y, torch.tensor([999]), hz, **told)
        want = (x.clamp(-1, 1) + 1)[0].permute(1, 2, 0).numpy() * 127.5
        name = f"{task}, patch {patch}, {' '.join(options) or 'no option'}"
        # Rounding to a level changes a value by at most half a level.
        off = np.abs(np.asarray(Image.open(made), np.float64) - want).max()
        checks.note("restoration, levels", name, off, 0.5 + 1e-3)


# ---- a training step ----

SIDE, PHOTO, MARGIN = 32, 80, 16
# sigma and its range, level and its range, the factor of the level
TASKS = {"denoise": (0.2, (0.02, 0.4), 0, (0, 0), 0), "sr4": (0.05, (0.02, 0.2), 0, (0, 0), 0), "colorize": (0.05, (0.02, 0.2), 0, (0, 0), 0),
         "deblur": (0.05, (0.02, 0.2), 3, (1, 4), 100), "sr2": (0.05, (0.02, 0.2), 0, (0, 0), 0), "dejpeg": (0, (0, 0), 20, (10, 80), 10)}
LABELS = {task: i for i, task in enumerate(TASKS)}


def crop(photo, dice, side):
    """The same as crop_draw with one photograph, jitter 1 and texture 0."""
    dice.below(1)
    dice.unit()
    x, y = dice.below(PHOTO - side + 1), dice.below(PHOTO - side + 1)
    dice.unit()
    way = dice.below(8)
    square = photo[y:y + side, x:x + side].astype(np.float64) / 127.5 - 1
    square = square.transpose(1, 0, 2) if way & 4 else square
    return square[::-1 if way & 1 else 1, ::-1 if way & 2 else 1].astype(np.float32)


def blur(x, std):
    at = np.arange(-30, 31)
    taps = np.exp(-0.5 * at**2 / std**2)
    taps = (taps / taps.sum()).astype(np.float32).astype(np.float64)
    line = lambda v: np.convolve(v, taps)[30:30 + len(v)]
    x = np.apply_along_axis(line, 0, x.astype(np.float64))
    return np.apply_along_axis(line, 1, x).astype(np.float32)


def jpeg(x, quality):
    """Encodes and decodes with libjpeg, in Pillow's build."""
    from PIL import Image
    file = io.BytesIO()
    Image.fromarray(np.rint((x.astype(np.float64) + 1) * 127.5).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality,
                                                                                                      subsampling="4:2:0")
    return (np.asarray(Image.open(file)) / 127.5 - 1).astype(np.float32)


def measured(photo, task, level, seed, step, row):
    if task not in ("deblur", "dejpeg"):
        x = crop(photo, Dice(seed, step, CROP, row), SIDE)
        if task in POOLED:
            by = POOLED[task]
            return x, x.reshape(SIDE // by, by, SIDE // by, by, 3).mean((1, 3))
        return x, (x @ np.float32([0.3333, 0.3334, 0.3333]))[..., None] if task == "colorize" else x
    large = crop(photo, Dice(seed, step, CROP, row), SIDE + 2 * MARGIN)
    dice = Dice(seed, step, MASK, row)
    whole = (lambda: MARGIN) if task == "deblur" else (lambda: MARGIN - dice.below(16))
    left, right, above, below = (0 if dice.unit() < 0.125 else whole() for _ in range(4))
    part = large[MARGIN - above:MARGIN + SIDE + below, MARGIN - left:MARGIN + SIDE + right]
    y = blur(part, level) if task == "deblur" else jpeg(part, int(np.rint(level)))
    return large[MARGIN:MARGIN + SIDE, MARGIN:MARGIN + SIDE], y[above:above + SIDE, left:left + SIDE]


def rows_of_step(photo, tasks, arch, seed, step, batch, in_pairs):
    """The loader's output: x, y_in, h z and the conditions."""
    x, y_in, told = [], [], {"label": [], "sigma": [], "level": []}
    for i in range(batch):
        row = i - i % 2 if in_pairs else i
        task = tasks[min(int(Dice(seed, step, TASK, row).unit() * len(tasks)), len(tasks) - 1)]
        dice = Dice(seed, step, CONDITIONS, row)
        sigma, sigmas, level, levels, gain = TASKS[task]
        low, high = sigmas if arch.get("sigma_cond") else (sigma, sigma)
        sigma = low + dice.unit() * (high - low)
        low, high = levels if arch.get("level_cond") else (level, level)
        level = low + dice.unit() * (high - low)
        one, y = measured(photo, task, level, seed, step, row)
        y = y + measurement_noise(seed, step, row, y.shape) * np.float32(sigma)
        y = torch.from_numpy(np.ascontiguousarray(y, np.float32)).permute(2, 0, 1)[None]
        x.append(torch.from_numpy(one.copy()).permute(2, 0, 1)[None])
        y_in.append(resized(y, POOLED[task]) if task in POOLED else y.expand(1, 3, -1, -1))
        told["label"].append(LABELS[task])
        told["sigma"].append(1000 * sigma)
        told["level"].append(gain * level)
    keys = {"label": "class_cond", "sigma": "sigma_cond", "level": "level_cond"}
    told = {k: torch.tensor(v) for k, v in told.items() if arch.get(keys[k])}
    hz = 0.1 * torch.from_numpy(np.concatenate([images(seed, step, GENERATOR_Z, row, SIDE) for row in range(batch)]))
    return torch.cat(x), torch.cat(y_in), hz, told


def read_flat(array, shapes):
    """A checkpoint's array by name; `shapes` in the order of the model file."""
    out, offset = {}, 0
    for name, shape in shapes:
        count = int(np.prod(shape))
        out[name] = array[offset:offset + count].reshape(shape)
        offset += (count + 15) // 16 * 16
    return out


def one_photo(david):
    """A photograph of squares of 4 px, in a folder of its own."""
    from PIL import Image
    photos = david.folder / "photos"
    photos.mkdir(exist_ok=True)
    photo = np.random.default_rng(5).integers(0, 256, (PHOTO // 4, PHOTO // 4, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    Image.fromarray(photo).save(photos / "one.png")
    return photo, photos


def compare_update(checks, what, net, out, lr):
    """Compares a network with gradients with david's state after one step."""
    state, _ = read_safetensors(f"{out}.checkpoints/step-000000001.safetensors")
    shapes = [(name, t.shape) for name, t in read_safetensors(out)[0].items()]
    after, m = (read_flat(state[f"generator.{k}"], shapes) for k in ("params", "m"))
    before = {name: p.detach().clone().numpy() for name, p in net.named_parameters()}
    torch.optim.AdamW(net.parameters(), lr, weight_decay=0.01).step()
    whole = np.sqrt(sum(float(p.grad.double().square().sum()) for p in net.parameters()))
    for name, p in net.named_parameters():
        gradient = p.grad.numpy()
        # A gradient far below the others is rounding, and AdamW turns it into a whole step.
        if np.abs(gradient).max() < 1e-6 * whole:
            continue
        checks.compare("gradient of a step", f"{what}: {name}", m[name] / 0.1, gradient)
        clear = np.abs(gradient) > 1e-3 * np.abs(gradient).max()
        change, want = after[name] - before[name], p.detach().numpy() - before[name]
        checks.note("change by AdamW, of lr", f"{what}: {name}", np.abs(change - want)[clear].max() / lr, 1e-2)


def times_of(seed, rows):
    """t of a prior's rows: the second of a row's four draws."""
    times = []
    for row in range(rows):
        dice = Dice(seed, 0, TIMES, row)
        dice.unit()
        times.append(dice.below(1000))
    return torch.tensor(times)


def check_prior(david, checks):
    photo, photos = one_photo(david)
    batch, lr, schedule = 4, 1e-3, Schedule()
    # A batch with a row of t = 0, which has another likelihood.
    first = next(seed for seed in itertools.count() if 0 in times_of(seed, batch))
    for i, (patch, options, seed) in enumerate([(1, (), first), (2, ("no_middle", "strided"), first), (4, ("attention",), 8)]):
        arch = arch_of(patch, options)
        net, tensors = network(arch, SEED + 200 + i)
        init, out = david.folder / f"prior{i}.safetensors", david.folder / f"next{i}.safetensors"
        write_safetensors(init, tensors, model_meta(arch))
        david.on_cpu("train", "prior", "--data", photos, "--out", out, "--init", init, "--steps", 1, "--batch", batch, "--size", SIDE,
                     "--jitter", 1, "--texture", 0, "--lr", lr, "--seed", seed)
        x = torch.from_numpy(np.stack([crop(photo, Dice(seed, 0, CROP, row), SIDE).transpose(2, 0, 1) for row in range(batch)]))
        noise = torch.from_numpy(np.concatenate([images(seed, 0, SCORE_NOISE, row, SIDE) for row in range(batch)]))
        t = times_of(seed, batch)
        x_t = at(schedule.of_x, t) * x + at(schedule.of_noise, t) * noise
        sum(hybrid(schedule, net(x_t, t), x, x_t, t, noise)).backward()
        compare_update(checks, f"prior, patch {patch}, t {t.tolist()}", net, out, lr)


def check_step(david, checks):
    photo, photos = one_photo(david)
    long_run = ("noise", "output", "classes", "sigma", "level", "no_middle", "strided", "three")
    cases = [(1, (), "regression", ()), (2, long_run, "regression", ("--l2",)), (2, long_run, "energy", ()),
             (2, long_run, "energy", ("--energy-norm",)), (4, ("noise", "sigma", "classes"), "energy:2,regression:0.5", ()),
             (1, ("output", "classes", "attention", "level"), "regression:1,energy:1", ("--l2", "--energy-norm"))]
    for i, (patch, options, objective, flags) in enumerate(cases):
        # Without labels or sigma the network cannot distinguish the tasks; that does not matter here.
        arch, tasks = arch_of(patch, options), list(TASKS)
        net, tensors = network(arch, SEED + 100 + i)
        init, out = david.folder / f"init{i}.safetensors", david.folder / f"out{i}.safetensors"
        meta = {t: {"sigma": TASKS[t][0], "h": 0.1, "label": LABELS[t] if arch.get("class_cond") else None} for t in tasks}
        write_safetensors(init, tensors, model_meta(arch, meta))
        seed, batch, lr = 11 + i, 12, 1e-3
        david.on_cpu("train", "davi", "--data", photos, "--out", out, "--init", init, "--task", ",".join(tasks), "--objective", objective,
                     "--steps", 1, "--batch", batch, "--micro-batch", 4, "--size", SIDE, "--jitter", 1, "--texture", 0, "--lr", lr,
                     "--seed", seed, *flags)
        in_pairs = "energy" in objective
        x, y_in, hz, told = rows_of_step(photo, tasks, arch, seed, 0, batch, in_pairs)
        pred = predict(net, net.arch, Schedule(), y_in, torch.full((batch,), 999), hz, **told)
        loss = 0
        for part in objective.split(","):
            name, _, weight = part.partition(":")
            value = regression(pred, x, "--l2" in flags) if name == "regression" else energy(pred, x, "--energy-norm" in flags)
            loss = loss + float(weight or 1) * value
        loss.backward()
        compare_update(checks, f"patch {patch}, {objective} {' '.join(flags)}", net, out, lr)


# ---- golden files ----

# Seeds with which PyTorch's own bfloat16 stays within the tolerance of 16 bits (test_unet_golden.c).
GOLDEN = {
    "levers_cells2": (20241215, dict(image_size=16, patch=2, noise="channels", output="linear", class_cond=True, num_classes=5,
                                     sigma_cond=True, level_cond=True, middle_attention=False, resblock_updown=False,
                                     learn_sigma=False)),
    "levers_cells4": (20241215, dict(image_size=32, patch=4, sigma_cond=True, attention_resolutions="4")),
    "levers_told": (20241216, dict(image_size=16, noise="channels", class_cond=True, num_classes=3, level_cond=True,
                                   use_scale_shift_norm=False, use_new_attention_order=True, attention_resolutions="8")),
}


def sampled(out, name, value, count, seed):
    v = value.detach().double().numpy().ravel()
    where = np.sort(np.random.default_rng(seed).choice(v.size, min(count, v.size), replace=False)).astype(np.int64)
    out[name + "#l2"] = np.float32(np.linalg.norm(v))
    out[name + "#at"], out[name + "#val"] = where, v[where].astype(np.float32)


def write_golden(folder):
    for file, (seed, options) in GOLDEN.items():
        arch = {**BASE, **options}
        net = UNet(arch)
        net.load_state_dict({name: torch.from_numpy(v) for name, v in weights(net, seed).items()})
        rows, side = 2, arch["image_size"]
        told = told_rows(arch, rows, seed)
        x = torch.from_numpy(hash_values("x", seed, (rows, 6 if arch.get("noise") else 3, side, side))).requires_grad_()
        seen = {}
        y = net(x, **as_torch(told), seen=seen)
        dy = torch.from_numpy(hash_values("dy", seed, tuple(y.shape))) / y.numel()
        y.backward(dy)
        out = dict(told)
        for name, value in seen.items():
            sampled(out, "act." + name, value, 64, seed)
        out["y"] = y.detach().contiguous().numpy()
        sampled(out, "y_full", y, 64, seed)
        out["dx"] = x.grad.contiguous().numpy()
        for name, p in net.named_parameters():
            sampled(out, "grad." + name, p.grad, 16, seed)
        params = sum(p.numel() for p in net.parameters())
        write_safetensors(folder / f"{file}.safetensors", out, {"david.config": json.dumps(arch), "seed": str(seed), "stride": "1",
                                                                "params": str(params)})
        print(f"{file}: {params} parameters, {len(out)} tensors")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--david")
    p.add_argument("--only", default="forward,restore,prior,step")
    p.add_argument("--write", type=pathlib.Path, metavar="FOLDER")
    args = p.parse_args()
    torch.set_num_threads(1)
    if args.write:
        write_golden(args.write)
        return 0
    david, checks = David(args.david), Checks()
    for name in args.only.split(","):
        {"forward": check_forward, "restore": check_restore, "prior": check_prior, "step": check_step}[name](david, checks)
    return checks.report()


if __name__ == "__main__":
    sys.exit(main())
