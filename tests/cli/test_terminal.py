"""Output on a terminal compared with output in a script: progress, images, one JSON object or
none.
"""
import json
import os
import pathlib
import pty
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from conftest import DAVID, GOLDEN, read_safetensors, run, write_safetensors


def on_terminal(*args, stdout_too=False):
    """Runs david with a terminal as stderr (and stdout); returns its exit code, stdout, and the
    terminal's text."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen([DAVID, *map(str, args)], stdin=subprocess.DEVNULL, stderr=theirs,
                            stdout=theirs if stdout_too else subprocess.PIPE)
    os.close(theirs)
    shown = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # the other end is closed
            some = b""
        if not some:
            break
        shown += some
    os.close(ours)
    out = b"" if stdout_too else done.stdout.read()
    return done.wait(120), out, shown


@pytest.fixture
def folder(tmp_path, photo):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(photo, data / name)
    return data


def test_progress_is_for_terminals(restorer, photo, tmp_path):
    args = ["restore", "--model", restorer, "--task", "denoise", "--seed", 1, photo, tmp_path / "o.png"]
    code, out, shown = on_terminal(*args)
    assert code == 0 and out == b"" and b" of 4 rows" in shown
    assert shown.rstrip().split(b"\r\033[K")[-1].startswith(b"task denoise")  # the line is cleared before the facts
    assert b"rows" not in run(*args).stderr


def test_progress_of_long_work(restorer, prior_file, folder, tmp_path):
    config = json.dumps(prior_file[1])
    code, out, shown = on_terminal("eval", "--json", "--task", "denoise", "--model", restorer, "--data", folder)
    assert code == 0 and b"2 of 2 images" in shown and json.loads(out)["count"] == 2
    code, _, shown = on_terminal("bench", "--arch", config, "--size", "16x16", "--batch", "1,2", "--runs", 2)
    assert code == 0 and b"4 of 4 runs" in shown
    code, _, shown = on_terminal("convert", GOLDEN / "prior.pt", tmp_path / "m.safetensors", "--arch", config)
    assert code == 0 and b" tensors" in shown


def test_rows_of_a_table_do_not_run_into_progress(restorer, folder):
    code, _, shown = on_terminal("eval", "--task", "denoise", "--model", restorer, "--data", folder, stdout_too=True)
    assert code == 0
    lines = [line.split(b"\r\033[K")[-1] for line in shown.replace(b"\r\n", b"\n").split(b"\n")]
    assert [line.split()[0] for line in lines if line.strip()] == [b"image", b"a.png", b"b.png", b"mean"]


@pytest.mark.parametrize("command", ["restore", "degrade"])
def test_an_image_is_not_written_to_a_terminal(command, photo):
    code, _, shown = on_terminal(command, "--task", "denoise", photo, "-", stdout_too=True)
    assert code == 2 and b"terminal" in shown and b"PNG\r\n" not in shown


def test_an_output_that_cannot_be_written_is_found_before_the_work(restorer, photo, tmp_path):
    where = tmp_path / "absent"
    for args in (["restore", "--task", "denoise", "--model", restorer, "/no/such.png", where / "o.png"],
                 ["degrade", "--task", "denoise", "/no/such.png", where / "o.png"],
                 ["degrade", "--task", "denoise", "/no/such.png", where / "y.safetensors"],
                 ["forward", "--model", restorer, "--in", "/no/such", "--out", where / "y.safetensors"],
                 ["convert", "/no/such.pt", where / "m.safetensors", "--arch", "ffhq256"]):
        message = run(*args, code=1).stderr
        assert str(where).encode() in message and b"/no/such" not in message


def test_json_is_whole_or_not_there(restorer, folder):
    (folder / "c.png").write_bytes(b"no image")
    done = run("eval", "--json", "--task", "denoise", "--model", restorer, "--data", folder, code=1)
    assert done.stdout == b"" and b"c.png" in done.stderr


def test_a_file_name_that_is_not_utf8_is_still_json(restorer, folder):
    os.rename(os.fsencode(folder / "b.png"), os.fsencode(folder) + b"/b\xff\xc3\xa9\xe9.png")
    done = run("eval", "--json", "--task", "denoise", "--model", restorer, "--data", folder)
    assert [i["name"] for i in json.loads(done.stdout.decode("utf-8"))["images"]] == ["a.png", "b\ufffdé\ufffd.png"]


def test_json_of_convert_and_forward(prior_file, restorer, tmp_path):
    model, y = tmp_path / "m.safetensors", tmp_path / "y.safetensors"
    done = run("convert", "--json", GOLDEN / "prior.pt", model, "--arch", json.dumps(prior_file[1]))
    facts, told = json.loads(done.stdout), json.loads(run("inspect", "--json", model).stdout)
    assert done.stderr == b"" and {k: facts[k] for k in facts} == {k: told[k] for k in facts}
    assert facts["parameters"] == sum(t.size for t in read_safetensors(model)[0].values())
    x = tmp_path / "x.safetensors"
    write_safetensors(x, {"x": np.zeros((2, 3, 16, 8), np.float32), "t": np.zeros(2, np.float32)}, {})
    facts = json.loads(run("forward", "--json", "--model", restorer, "--in", x, "--out", y).stdout)
    assert facts["shape"] == list(read_safetensors(y)[0]["y"].shape) == [2, 6, 16, 8]
    assert facts["backend"] == "cpu" and facts["threads"] >= 1


def test_a_checkpoint_in_place_of_a_model_is_told_apart(photo, tmp_path):
    for name in (GOLDEN / "prior.pt", "prior.pt"):
        done = run("restore", "--task", "denoise", "--model", name, photo, tmp_path / "o.png", code=2)
        assert b"david convert" in done.stderr


def test_doctor_lists_versions_and_fails_where_nothing_can_run(restorer, tmp_path):
    models = tmp_path / "models"
    (models / "many").mkdir(parents=True)
    for name in ("many/v2.safetensors", "many/v10.safetensors", "one.safetensors"):
        shutil.copy(restorer, models / name)
    (models / "bad.safetensors").write_bytes(b"no model")
    facts = json.loads(run("doctor", "--json", env={**os.environ, "DAVID_MODELS": str(models)}).stdout)
    assert "restorer" in facts["one.safetensors"] and "restorer" in facts["many/v10.safetensors"]
    assert "many/v2.safetensors" not in facts and facts["bad.safetensors"].startswith("refused")


def test_the_first_image_is_the_one_that_stdin_holds(restorer, photo, tmp_path):
    out = tmp_path / "y.png"
    run("degrade", "--task", "denoise", "--seed", 2, photo, out)
    piped = run("degrade", "--task", "denoise", "--seed", 2, "-", "-", input=photo.read_bytes()).stdout
    assert piped == out.read_bytes()
    with Image.open(out) as img:
        assert img.size == (40, 36)


def test_help_as_git_has_it():
    assert run("help").stdout == run("--help").stdout
    assert run("help", "restore").stdout == run("restore", "--help").stdout
    assert b"not a command" in run("help", "nonsense", code=2).stderr


def test_waiting_threads_do_not_spin_for_long_unless_told(prior_file):
    def spins(**told):
        env = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
        done = subprocess.Popen([DAVID, "bench", "--arch", json.dumps(prior_file[1]), "--runs", "1000"], env={**env, **told},
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while done.poll() is None:  # until the second start has happened
                found = re.findall(r"(GOMP_SPINCOUNT|OMP_WAIT_POLICY)=(\w+)", pathlib.Path(f"/proc/{done.pid}/environ").read_text())
                if found:
                    return found
        finally:
            done.kill()
            done.wait()
        return []

    ((name, count),) = spins()
    assert name == "GOMP_SPINCOUNT" and 500 <= int(count) <= 100000
    assert spins(OMP_WAIT_POLICY="passive") == [("OMP_WAIT_POLICY", "passive")]
