"""Each error is one clear line, and no run reads a half-written file as a checkpoint or a model."""
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from conftest import (ARCH, DAVID, checkpoints, header_of, leftovers, options, result, run, save, start, stop, train)


def last_line(done):
    return done.stderr.decode().splitlines()[-1]


def refused(tmp_path, kind, data, *words, code=1, **more):
    """The run ends before its first step, reports why, and writes neither a model nor a checkpoint."""
    out = tmp_path / "refused.safetensors"
    done = train(kind, data, out, code=code, **{"steps": 2, **more})
    assert all(str(w) in done.stderr.decode() for w in words), done.stderr.decode()
    assert done.stderr.startswith(b"david train: ") and done.stdout == b"" and not out.exists() and not checkpoints(out)
    return done


# ---- options ----

@pytest.mark.parametrize("option,value", [
    ("steps", "-1"), ("steps", "0"), ("steps", "1e3"), ("lr", "nan"), ("lr", "inf"), ("lr", "-1e-4"), ("lr", "x"),
    ("batch", "0"), ("micro-batch", "-1"), ("seed", "-1"), ("jitter", "0.5"), ("texture", "nan"), ("sigma", "nan"),
    ("keep", "0"), ("checkpoint-every", "0"), ("size", "7"), ("loader-threads", "0"), ("cache-mib", "0"),
    ("dtype", "f8"), ("recompute", "all"), ("backend", "abacus"), ("arch", "{"), ("arch", "nonsense")])
def test_a_wrong_option_is_usage(option, value, photos, tmp_path):
    done = refused(tmp_path, "prior", photos, option, code=2, **{option: value})
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("args", [
    [], ["later"], ["prior"], ["prior", "--data", "."], ["prior", "--data", ".", "--out", "o"],
    ["davi", "--data", ".", "--out", "o", "--task", "sr4"], ["davi", "--data", ".", "--out", "o", "--prior", "p.safetensors"],
    ["prior", "prior", "--data", ".", "--out", "o"]], ids=" ".join)
def test_what_is_missing_is_usage(args):
    done = run("train", *args, code=2)
    assert done.stdout == b"" and done.stderr.count(b"\n") == 1


def test_batches_and_tasks_that_do_not_fit(photos, prior, tmp_path):
    refused(tmp_path, "prior", photos, "batch = 4", "micro-batch = 3", code=2, micro_batch=3)
    refused(tmp_path, "davi", photos, "melt", "deblur", "colorize", code=2, prior=prior, task="melt")
    refused(tmp_path, "davi", photos, code=2, prior=prior, task="sr4,")
    refused(tmp_path, "prior", photos, "17 x 17", code=2, size=17)


# ---- data ----

def test_folders_with_nothing_in_them(photos, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(tmp_path, "prior", empty, empty, "no PNG or JPEG")
    (empty / "notes.txt").write_text("nothing to see")
    (empty / "folder.png").mkdir()
    refused(tmp_path, "prior", empty, empty, "no PNG or JPEG")
    refused(tmp_path, "prior", tmp_path / "absent", tmp_path / "absent", "No such file")
    refused(tmp_path, "prior", photos / "0.png", photos / "0.png", "Not a directory")


def test_images_that_are_all_too_small(photos, tmp_path):
    done = refused(tmp_path, "prior", photos, "none of its 6 images", "at least 128 px", size=128)
    assert done.stderr.count(b"left out") == 6


def test_bad_files_are_left_out_counted_and_named_once(photos, tmp_path):
    data, good = tmp_path / "data", tmp_path / "good"
    for folder in (data, good):
        shutil.copytree(photos, folder)
    whole = (photos / "0.png").read_bytes()
    bad = {"cut.png": whole[:len(whole) // 2], "empty.jpg": b"", "text.JPG": b"no image at all",
           "flipped.png": whole[:200] + bytes(b ^ 255 for b in whole[200:400]) + whole[400:]}
    for name, content in bad.items():
        (data / name).write_bytes(content)
    save(np.zeros((8, 8, 3)), data / "tiny.png")
    os.symlink(data / "nowhere", data / "dangling.png")  # not a file: not listed
    done = train("prior", data, tmp_path / "p", steps=40)
    text = done.stderr.decode()
    for name in [*bad, "tiny.png"]:
        assert text.count(f" {name}: ") == 1, text
    assert "dangling" not in text and "5 of 11 images were left out" in text
    assert train("prior", good, tmp_path / "q", steps=2).stderr.count(b"left out") == 0


@pytest.mark.parametrize("change", ["removed", "written anew", "cut", "unreadable"])
def test_a_folder_that_changes_while_in_use_ends_the_run(change, tmp_path):
    """The cache holds one image of three, so that each is read repeatedly."""
    data, out = tmp_path / "data", tmp_path / "p"
    data.mkdir()
    draw = np.random.default_rng(4)
    for i in range(3):
        save(np.kron(draw.integers(0, 256, (8, 8, 3)), np.ones((60, 60, 1))), data / f"{i}.png")  # 0.7 MB decoded
    went = start(options("prior", data, out, steps=100000, cache_mib=1, checkpoint_every=5, json=True))
    try:
        for _ in range(12):
            assert went.stdout.readline()
        target = data / "1.png"
        if change == "removed":
            target.unlink()
        elif change == "written anew":
            target.write_bytes((data / "0.png").read_bytes())
        elif change == "cut":
            os.truncate(target, 100)
        else:
            target.unlink()
            target.symlink_to(target)  # a loop: not even root can open it
        (data / "later.png").write_bytes((data / "0.png").read_bytes())  # an added file has no effect
        _, err = went.communicate(timeout=60)
    finally:
        stop(went)
    text = err.decode()
    assert went.returncode == 1 and "1.png" in text and str(checkpoints(out)[-1]) in text.splitlines()[-1], text
    assert not out.exists() and leftovers(out) == []


def test_a_run_does_not_go_on_with_other_data(photos, tmp_path):
    data, out = tmp_path / "data", tmp_path / "p"
    shutil.copytree(photos, data)
    train("prior", data, out, steps=2)
    shutil.copy(data / "0.png", data / "more.png")
    done = train("prior", data, out, steps=4, resume=True, code=1)
    assert "another data" in last_line(done)


# ---- models and checkpoints ----

def test_priors_that_cannot_teach(photos, prior, tmp_path):
    plain = {**ARCH, "learn_sigma": False}
    refused(tmp_path, "prior", photos, "learned variance", arch=plain)
    data, end = prior.read_bytes(), 8 + int.from_bytes(prior.read_bytes()[:8], "little")
    header = header_of(prior)
    header["__metadata__"]["david.arch"] = json.dumps(plain)
    for name in ("out.2.weight", "out.2.bias"):  # 6 channels become 3
        start_at, stop_at = header[name]["data_offsets"]
        header[name]["shape"][0] = 3
        header[name]["data_offsets"] = [start_at, (start_at + stop_at) // 2]
    blobs, at = [], 0
    for name, t in header.items():
        if name == "__metadata__":
            continue
        a, b = t["data_offsets"]
        blobs.append(data[end + a:end + b])
        t["data_offsets"] = [at, at + b - a]
        at += b - a
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    three = tmp_path / "three.safetensors"
    three.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    run("sample", "--prior", three, "--steps", 1, "--count", 1, tmp_path / "s.png")  # it is a valid prior
    refused(tmp_path, "davi", photos, three, "learned variance", prior=three)

    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(data[:-5])
    refused(tmp_path, "davi", photos, cut, prior=cut)
    refused(tmp_path, "davi", photos, "absent.safetensors", prior=tmp_path / "absent.safetensors")
    restorer = tmp_path / "r.safetensors"
    train("davi", photos, restorer, prior=prior, steps=1)
    refused(tmp_path, "davi", photos, restorer, "restorer", prior=restorer)
    assert b"restorer" in run("sample", "--prior", restorer, tmp_path / "s2.png", code=1).stderr
    wide = tmp_path / "wide.safetensors"
    train("prior", photos, wide, arch={**ARCH, "channel_mult": "1,2"}, steps=1)
    refused(tmp_path, "davi", photos, wide, "another architecture", prior=prior, init=wide, grown=ARCH)
    train("davi", photos, tmp_path / "i.safetensors", prior=prior, init=prior, steps=1)


def test_a_checkpoint_of_another_run_is_refused(photos, prior, tmp_path):
    out, before = tmp_path / "p", {}
    train("prior", photos, out, steps=2)
    state = checkpoints(out)[-1]
    before = state.read_bytes()
    wide = {**ARCH, "channel_mult": "1,2"}
    for words, more in (("another arch", {"arch": wide}), ("seed = 7 there, 8 here", {"seed": 8}),
                        ("batch = 4 there, 2 here", {"batch": 2}), ("size = 16 there, 24 here", {"size": 24}),
                        ("jitter", {"jitter": 1})):
        done = train("prior", photos, out, steps=4, resume=True, code=1, **more)
        assert words in last_line(done) and str(state) in last_line(done), last_line(done)
    done = train("davi", photos, out, prior=prior, steps=4, resume=True, code=1)
    assert "kind = prior there, davi here" in last_line(done)
    done = train("prior", photos, out, steps=4, code=2)  # without --resume
    assert "resume" in last_line(done)
    assert checkpoints(out) == [state] and state.read_bytes() == before


def damages(data):
    """Files that were not written completely, or that a disk has damaged."""
    end = 8 + int.from_bytes(data[:8], "little")
    nan = np.float32("nan").tobytes()
    yield "empty", b""
    yield "cut in its length", data[:4]
    yield "cut in its header", data[:end // 2]
    yield "cut in its numbers", data[:end + (len(data) - end) // 2]
    yield "short of a byte", data[:-1]
    yield "zeros", bytes(len(data))
    yield "too long", data + b"\0"
    yield "not finite", data[:-4] + nan
    yield "a model", None


def test_a_damaged_checkpoint_is_never_loaded(photos, prior, tmp_path):
    out = tmp_path / "p"
    train("prior", photos, out, steps=2, checkpoint_every=1)
    good, newest = checkpoints(out)
    whole = newest.read_bytes()
    for name, damaged in damages(whole):
        newest.write_bytes(prior.read_bytes() if damaged is None else damaged)
        done = train("prior", photos, out, steps=4, resume=True, code=1)
        assert str(newest) in last_line(done), (name, last_line(done))
        assert [p.name for p in checkpoints(out)] == [good.name, newest.name], name
    newest.unlink()  # the checkpoint before it is intact
    train("prior", photos, out, steps=2, resume=True, checkpoint_every=1)
    assert checkpoints(out)[-1].read_bytes() == whole


def test_a_run_that_explodes_names_its_last_good_checkpoint(photos, tmp_path):
    out = tmp_path / "p"
    train("prior", photos, out, steps=4)
    state = checkpoints(out)[-1]
    before = state.read_bytes()
    out.unlink()
    # The last bits of floats decide at which step it explodes: no checkpoint may come before.
    done = train("prior", photos, out, steps=10**6, checkpoint_every=10**6, resume=True, lr=1, code=1)
    text = done.stderr.decode().splitlines()
    assert "exploded" in text[-2] and "step " in text[-2] and str(state) in text[-1], text
    assert not out.exists() and checkpoints(out) == [state] and state.read_bytes() == before


def test_weights_too_large_for_any_number_end_the_run_at_its_first_step(photos, prior, tmp_path):
    data = prior.read_bytes()
    end, huge = 8 + int.from_bytes(data[:8], "little"), tmp_path / "huge.safetensors"
    huge.write_bytes(data[:end] + (np.frombuffer(data[end:], "<f4") * np.float32(1e20)).tobytes())
    done = refused(tmp_path, "prior", photos, "step 1: ", "exploded", arch=None, init=huge)
    assert "checkpoint" not in last_line(done)


# ---- disks ----

def test_places_that_cannot_be_written_are_found_before_the_first_step(photos, tmp_path):
    began = time.monotonic()
    for out, more in ((tmp_path / "absent" / "p", {}), (tmp_path, {"checkpoint_dir": tmp_path / "c"}),
                      (tmp_path / "p", {"checkpoint_dir": "/proc/none"}), (tmp_path / "p", {"checkpoint_dir": photos / "0.png"})):
        done = train("prior", photos, out, steps=10**6, code=1, **more)
        assert done.stderr.count(b"\n") == 1 and not (tmp_path / "p").exists(), done.stderr
    assert time.monotonic() - began < 60


def test_two_runs_do_not_share_a_folder(photos, tmp_path):
    out = tmp_path / "p"
    went = start(options("prior", photos, out, steps=10**6, json=True))
    try:
        assert went.stdout.readline()
        done = train("prior", photos, out, steps=4, resume=True, code=1)
        assert "another run" in last_line(done)
    finally:
        stop(went)
    train("prior", photos, out, steps=4, resume=True)  # a run that has ended holds no lock


def limit_files(kib):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10))


def after_failing(photos, out, failed, reason):
    """A checkpoint could not be written: the error names the one before, and the next run begins from it."""
    text = failed.stderr.decode().splitlines()
    good = checkpoints(out)
    assert [p.name for p in good] == ["step-000000004.safetensors"] and leftovers(out) == []
    assert reason in text[-2] and str(good[0]) in text[-1] and not out.exists(), text


def test_a_checkpoint_over_a_limit_of_bytes(photos, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "p"
    train("prior", photos, whole, steps=8, checkpoint_every=4)
    train("prior", photos, out, steps=4)
    out.unlink()
    for kib in (0, 4, 100):
        args = options("prior", photos, out, steps=8, resume=True)
        failed = run(*args, code=1, preexec_fn=limit_files(kib), restore_signals=False)  # SIGXFSZ stays ignored
        after_failing(photos, out, failed, "File too large")
    train("prior", photos, out, steps=8, resume=True)
    assert result(out) == result(whole)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk; the limit of bytes above goes the same way")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_during_a_checkpoint(small_disk, photos, tmp_path):
    whole, out = tmp_path / "whole", small_disk / "p"
    train("prior", photos, whole, steps=8, checkpoint_every=4)
    train("prior", photos, out, steps=4)
    out.unlink()
    size = checkpoints(out)[0].stat().st_size
    room = shutil.disk_usage(small_disk).free - size // 2
    (small_disk / "filler").write_bytes(bytes(room))
    failed = train("prior", photos, out, steps=8, resume=True, code=1)
    after_failing(photos, out, failed, "No space left on device")
    (small_disk / "filler").unlink()
    train("prior", photos, out, steps=8, resume=True)
    assert result(out) == result(whole)
