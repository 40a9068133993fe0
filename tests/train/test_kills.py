"""kill -9 at any moment: the resumed run ends with the same bytes as a run that was never interrupted.

A moment is a reported step plus a fraction of a second, or a byte of a checkpoint during its write (a limit of bytes, whose signal
ends the process there as suddenly as kill -9); the seed fixes them. The lines of the runs before the kill are compared too.
The ten-kill proof: pytest -m slow, or ctest -R train-ten-kills."""
import json
import pathlib
import random
import resource
import signal
import time

import pytest

from conftest import checkpoints, header_of, leftovers, lines, options, result, start, stop, train


def is_whole(path):
    header = header_of(path)
    ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + int.from_bytes(path.read_bytes()[:8], "little") + max(ends)


def told_by(text):
    told = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
    for line in told:
        del line["images_per_second"], line["processor_seconds"]
    return told


def kill_at_a_step(args, draw, ahead):
    """Killed by kill -9 up to 30 ms after it reported a step 1 to `ahead` steps later."""
    went = start(args)
    told, lines_ahead, wait = b"", draw.randint(1, ahead), draw.random() * 0.03
    try:
        for _ in range(lines_ahead):
            told += went.stdout.readline()
        time.sleep(wait)
        went.send_signal(signal.SIGKILL)
        rest, _ = went.communicate(timeout=60)
    finally:
        stop(went)
    return went.returncode == -signal.SIGKILL, told_by(told + rest), f"{lines_ahead} steps and {wait * 1e3:.1f} ms on"


def kill_at_a_byte(args, draw, size):
    """Killed during the write of its next checkpoint of `size` bytes."""
    at = draw.randrange(1, size)
    went = start(args, preexec_fn=lambda: (resource.setrlimit(resource.RLIMIT_FSIZE, (at, at)),
                                           resource.setrlimit(resource.RLIMIT_CORE, (0, 0))))
    told, _ = went.communicate(timeout=120)
    return went.returncode == -signal.SIGXFSZ, told_by(told), f"at byte {at} of a checkpoint"


def prove(kind, kills, steps, every, photos, prior, tmp_path, capsys):
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    common = dict(prior=prior, steps=steps, checkpoint_every=every, json=True)
    expected = lines(train(kind, photos, whole, **common))
    size = checkpoints(whole)[-1].stat().st_size
    draw, half, report = random.Random(f"{kind} {kills}"), 0, []
    args = options(kind, photos, out, **common, resume=True)
    for kill in range(kills):
        # At least one kill came during the write of a checkpoint and left an incomplete file.
        strike, most = (kill_at_a_byte, size) if kill % 3 == 1 else (kill_at_a_step, 2 * every)
        has_died, told, moment = strike(args, draw, most)
        assert has_died, report
        assert told and all(line == expected[line["step"] - 1] for line in told)
        assert all(is_whole(p) for p in checkpoints(out))
        half += bool(leftovers(out))
        report.append(f"kill {kill + 1}, {moment}: step {told[-1]['step']} was told, {[p.name for p in checkpoints(out)][-1:]}"
                      f" is there{', and a half-written one' if leftovers(out) else ''}")
    rest = train(kind, photos, out, **common, resume=True)
    assert all(line == expected[line["step"] - 1] for line in lines(rest))
    assert half >= kills // 3 and leftovers(out) == [], report
    assert result(out) == result(whole), report
    with capsys.disabled():
        print(f"\n{kind}: {kills} kills in {steps} steps; the model and the {size} bytes of weights, average and moments are those"
              " of the uninterrupted run", *report, sep="\n  ")


# A page of lines (conftest.start) is 30 steps of a prior, 10 of DAVI: every run is killed before its end.
@pytest.mark.parametrize("kind,steps", [("prior", 120), ("davi", 40)])
def test_three_kills(kind, steps, photos, prior, tmp_path, capsys):
    prove(kind, 3, steps, 4, photos, prior, tmp_path, capsys)


def test_a_model_that_was_half_written_is_none_and_is_cleared_away(photos, tmp_path):
    out, other = tmp_path / "p.safetensors", tmp_path / ".p.safetensors.bak.0123456789abcdef.tmp"
    args = dict(steps=4, resume=True)
    train("prior", photos, out, **args)
    model, _ = result(out)
    out.unlink()
    has_died, _, _ = kill_at_a_byte(options("prior", photos, out, **args), random.Random(1), len(model))
    half = [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert has_died and not out.exists() and len(half) == 1
    other.write_bytes(b"of somebody else")
    train("prior", photos, out, **args)
    assert result(out)[0] == model and not half[0].exists() and other.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind,steps,every", [("prior", 400, 5), ("prior", 400, 1), ("davi", 180, 4), ("davi", 180, 1)])
def test_ten_kills(kind, steps, every, photos, prior, tmp_path, capsys):
    prove(kind, 10, steps, every, photos, prior, tmp_path, capsys)
