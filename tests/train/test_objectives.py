"""Restorers that learn from the truth alone, with the options beyond the published networks."""
import json
import math
import subprocess

import numpy as np
import pytest
from PIL import Image

from conftest import ARCH, DAVID, checkpoints, header_of, lines, options, result, run, save, tensors, train, validations

FULL = {**ARCH, "image_size": 16, "patch": 2, "noise": "channels", "output": "linear", "class_cond": True, "num_classes": 5,
        "sigma_cond": True, "level_cond": True, "middle_attention": False, "resblock_updown": False, "attention_resolutions": ""}
PATCH = {**ARCH, "patch": 2, "attention_resolutions": ""}


def learn(photos, out, objective, grown=FULL, code=0, **more):
    more = {"task": "denoise:2,sr4", "lr": 1e-3, "json": True, **more}
    return train("davi", photos, out, code=code, discriminator_width=None, objective=objective, grown=grown, **more)


@pytest.mark.parametrize("l2", (None, True))
def test_regression_learns_and_its_model_restores(l2, photos, tmp_path):
    out = tmp_path / "r.safetensors"
    told = lines(learn(photos, out, "regression", h=0, steps=200, l2=l2, warmup=10, decay=100, clip=1))
    assert all(set(t) == {"step", "steps", "total", "regression", "generator_gradient"} for t in told)
    assert all(t["total"] == t["regression"] for t in told)
    first, last = (np.mean([t["regression"] for t in told[part]]) for part in (slice(0, 10), slice(-10, None)))
    assert last < 0.85 * first
    facts = json.loads(run("inspect", "--json", out).stdout)
    assert facts["role"] == "restorer" and facts["provenance"]["objective"] == "regression"
    assert facts["provenance"]["regression"] == ("l2" if l2 else "l1") and facts["provenance"]["parent"] is None
    assert {name: task["label"] for name, task in facts["tasks"].items()} == {"denoise": 0, "sr4": 1}
    for task, size in (("denoise", (24, 20)), ("sr4", (96, 80))):
        photo, restored = save(np.full((20, 24, 3), 90), tmp_path / "photo.png"), tmp_path / "o.png"
        run("restore", "--model", out, "--task", task, photo, restored)
        assert Image.open(restored).size == size


def test_the_energy_score_makes_samples_differ(photos, tmp_path):
    out = tmp_path / "e.safetensors"
    done = learn(photos, out, "energy:2,regression:0.5", h=1, steps=60, validate=photos, validate_every=60, validate_crops=4,
                 size=16)
    told = lines(done)
    assert all(abs(t["total"] - 2 * t["energy"] - 0.5 * t["regression"]) < 1e-6 for t in told)
    assert told[-1]["energy"] < told[0]["energy"]
    scores, = validations(done)
    assert all(0 < task["coverage"] < 1 and task["mean_psnr"] > task["psnr"] for task in scores["validation"].values())
    noise = tensors(out)["input_blocks.0.0.weight"].reshape(32, 4, 6, 3, 3)[:, :, 3:]
    assert np.abs(noise).max() > 0


def test_one_seed_is_one_run_and_a_resumed_one_ends_alike(photos, tmp_path):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    more = {"h": 1, "checkpoint_every": 4}
    learn(photos, whole, "energy,regression", steps=10, **more)
    learn(photos, cut, "energy,regression", steps=4, **more)
    learn(photos, cut, "energy,regression", steps=10, resume=True, **more)
    a, b = result(whole), result(cut)
    assert a[1] == b[1] and tensors(whole).keys() == tensors(cut).keys()
    assert all(np.array_equal(v, tensors(cut)[name]) for name, v in tensors(whole).items())


def test_the_best_average_on_the_validation_folder_is_kept(photos, tmp_path):
    out = tmp_path / "v.safetensors"
    done = learn(photos, out, "regression", h=0, steps=40, validate=photos, validate_every=10, validate_crops=3, sheet_every=20)
    scores = validations(done)
    assert [s["step"] for s in scores] == [10, 20, 30, 40]
    best = max(scores, key=lambda s: s["score"])
    assert [s["best"] for s in scores] == [s["score"] > max([0, *(t["score"] for t in scores[:i])]) for i, s in enumerate(scores)]
    for s in scores:
        assert set(s["validation"]) == {"denoise", "sr4"}
        mean = np.mean([task["mean_psnr"] for task in s["validation"].values()])
        assert abs(s["score"] - mean) < 1e-3 and all(task["coverage"] is None for task in s["validation"].values())
    folder = checkpoints(out)[-1].parent
    metrics = json.loads(header_of(folder / "best.safetensors")["__metadata__"]["david.metrics"])
    assert metrics["step"] == best["step"] and abs(metrics["score"] - best["score"]) < 1e-3
    assert {p.name for p in folder.glob("sheet-validation-*")} == {f"sheet-validation-{n:09}.png" for n in (10, 20, 30, 40)}
    # A resumed run does not replace the best model by a worse one.
    done = learn(photos, out, "regression", h=0, steps=50, lr=1, resume=True, validate=photos, validate_every=10,
                 validate_crops=3, sheet_every=20)
    assert not validations(done)[-1]["best"]
    assert json.loads(header_of(folder / "best.safetensors")["__metadata__"]["david.metrics"]) == metrics


def test_a_generator_begins_as_its_prior_whatever_it_is_told_beside(photos, tmp_path):
    prior, out = tmp_path / "prior.safetensors", tmp_path / "r.safetensors"
    train("prior", photos, prior, steps=6, arch=PATCH)
    grown = {**PATCH, "noise": "channels", "output": "linear", "class_cond": True, "num_classes": 5, "sigma_cond": True}
    learn(photos, out, "regression", grown=grown, prior=prior, steps=1, lr=0)
    before, after = tensors(prior), tensors(out)
    first = after.pop("input_blocks.0.0.weight").reshape(32, 4, 6, 3, 3)
    assert np.array_equal(first[:, :, :3].reshape(32, 12, 3, 3), before.pop("input_blocks.0.0.weight"))
    assert not first[:, :, 3:].any()
    assert all(np.array_equal(after.pop(name), v) for name, v in before.items())
    assert set(after) == {"label_emb.weight", *(f"sigma_embed.{i}.{p}" for i in (0, 2) for p in ("weight", "bias"))}
    assert not after["label_emb.weight"].any() and not after["sigma_embed.2.weight"].any()
    assert after["sigma_embed.0.weight"].any()
    # New tasks get new labels, and the others keep theirs.
    again = tmp_path / "again.safetensors"
    learn(photos, again, "regression", grown=None, init=out, task="colorize,sr4", steps=1)
    labels = {name: t["label"] for name, t in json.loads(run("inspect", "--json", again).stdout)["tasks"].items()}
    assert labels == {"colorize": 2, "sr4": 1}


def test_davi_with_every_option_takes_steps(photos, tmp_path):
    prior, out = tmp_path / "prior.safetensors", tmp_path / "r.safetensors"
    train("prior", photos, prior, steps=6, arch=PATCH)
    grown = {**PATCH, "noise": "channels", "output": "linear", "class_cond": True, "num_classes": 5, "sigma_cond": True,
             "level_cond": True}
    told = lines(train("davi", photos, out, prior=prior, grown=grown, task="deblur,sr4,denoise", steps=3,
                       objective="davi:1,regression:1,energy:1", json=True))
    assert all(math.isfinite(v) for t in told for v in t.values())
    assert all({"ikl", "lambda", "regression", "energy"} <= set(t) for t in told)


def test_the_rate_rises_stays_and_falls(photos, tmp_path):
    def weights(name, **more):
        out = tmp_path / name
        learn(photos, out, "regression", h=0, **{"weight_decay": 0, **more})
        return tensors(out)["out.2.weight"]
    # A model file has the average, which first changes at the fifth step; each step moves a weight by about the rate.
    still = weights("a", steps=5, lr=0)
    slow = np.abs(weights("b", steps=5, lr=1e-3, warmup=1000) - still).max()
    fast = np.abs(weights("c", steps=5, lr=1e-3) - still).max()
    falls = np.abs(weights("d", steps=5, lr=1e-3, decay=5) - still).max()
    assert 0 < slow < 6e-3 * fast and 0.4 * fast < falls < 0.8 * fast


def test_no_weight_decay_is_none(photos, tmp_path):
    """0 is a value, not the absence of the option."""
    def weights(name, decay):
        learn(photos, tmp_path / name, "regression", h=0, steps=5, lr=1e-3, weight_decay=decay)
        return tensors(tmp_path / name)["input_blocks.1.0.in_layers.2.weight"]
    none, usual, strong = weights("a", 0), weights("b", 0.01), weights("c", 1)
    assert not np.array_equal(none, usual)
    assert np.abs(strong).sum() < 0.999 * np.abs(none).sum()


BAD = [
    ("an objective that does not exist", {"objective": "gan"}, "davi, regression or energy"),
    ("a weight that is none", {"objective": "energy:x"}, "not a weight"),
    ("a weight of 0", {"objective": "regression:0"}, "not a weight"),
    ("davi without a prior", {"objective": "davi"}, "prior"),
    ("energy of an odd micro-batch", {"objective": "energy", "batch": 3}, "even micro-batch"),
    ("half a range", {"sigma_low": 0.1}, "no range"),
    ("a range upside down", {"sigma_low": 0.3, "sigma_high": 0.1}, "no range"),
    ("more tasks than classes", {"task": "denoise,sr4,deblur", "grown": {**FULL, "num_classes": 2}}, "free label"),
    ("an unknown task", {"task": "denoise,paint"}, "paint"),
    ("a task of no weight", {"task": "denoise:-1"}, "not a weight"),
    ("a clip below 0", {"clip": -1}, "clip"),
    ("a validation folder that is not there", {"validate": "/nowhere"}, "/nowhere"),
]


@pytest.mark.parametrize("change,want", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_cannot_be_is_refused_before_the_first_step(change, want, photos, tmp_path):
    out = tmp_path / "r.safetensors"
    change = {"objective": "regression", "steps": 2, **change}
    args = options("davi", photos, out, discriminator_width=None, **{"grown": FULL, **change})
    done = subprocess.run([DAVID, *args], capture_output=True, timeout=60)
    assert done.returncode in (1, 2) and want in done.stderr.decode(), done.stderr
    assert not out.exists()


def test_a_prior_of_another_patch_is_refused(photos, prior, tmp_path):
    done = train("davi", photos, tmp_path / "r", prior=prior, grown=FULL, task="denoise", steps=1, code=1)
    assert "one patch" in done.stderr.decode()
