"""Help, exit codes, and wrong usage of every subcommand."""
import json
import re

import pytest

from conftest import GOLDEN, TREE, run

COMMANDS = ["serve", "restore", "degrade", "eval", "forward", "convert", "inspect", "bench", "train",
            "sample", "doctor"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_goes_to_stdout_and_succeeds(command):
    done = run(command, "--help")
    assert done.stdout.startswith(f"Usage: david {command} ".encode())
    assert done.stderr == b""


@pytest.mark.parametrize("command", ["restore", "degrade", "eval", "train"])
def test_help_lists_every_task_of_the_table(command):
    tasks = re.findall(r'^TASK\(\w+, "(\w+)"', (TREE / "engine/davi/tasks.def").read_text(), re.M)
    assert len(tasks) >= 7 and ", ".join(tasks) in run(command, "--help").stdout.decode()


def test_top_help_lists_every_command_and_version_is_one_line():
    text = run("--help").stdout.decode()
    for command in COMMANDS:
        assert f"\n  {command} " in text
    assert run("--version").stdout.decode().count("\n") == 1


def test_every_command_in_the_readme_exists():
    readme = TREE / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md")
    listed = set(re.findall(r"david +(?=[a-z]+ )([a-z]+) +(?:-|[A-Z])", readme.read_text()))
    text = run("--help").stdout.decode()
    for command in listed:
        assert f"\n  {command} " in text, command


BAD = [
    [], ["nonsense"], ["--nonsense"],
    ["restore"], ["restore", "a.png"], ["restore", "a.png", "b.png", "c.png"],
    ["restore", "--nonsense", "a.png", "b.png"],
    ["restore", "--seed", "-1", "a.png", "b.png"],
    ["restore", "--seed", "18446744073709551616", "a.png", "b.png"],
    ["restore", "--seed", "1x", "a.png", "b.png"], ["restore", "--seed", "", "a.png", "b.png"],
    ["restore", "--h", "nan", "a.png", "b.png"], ["restore", "--h", "-1", "a.png", "b.png"],
    ["restore", "--samples", "0", "a.png", "b.png"], ["restore", "--seed"],
    ["restore", "--output", "all", "a.png", "b.png"], ["restore", "a.png", "b.gif"],
    ["restore", "--json", "a.png", "-"], ["restore", "--threads", "0", "a.png", "b.png"],
    ["degrade", "a.png", "b.png"], ["degrade", "--task", "melt", "a.png", "b.png"],
    ["degrade", "--task", "denoise", "--sigma", "11", "a.png", "b.png"],
    ["eval"], ["eval", "--task", "denoise"], ["eval", "--data", "."],
    ["eval", "--task", "melt", "--data", "."],
    ["forward"], ["forward", "--model", "m"], ["forward", "--model", "m", "--in", "i"],
    ["convert", "a.pt"], ["convert", "--dtype", "i8", "a.pt", "b.safetensors"],
    ["convert", "a.pt", "b.pt"], ["convert", "--arch", "x", f"{GOLDEN}/prior.pt", "b.safetensors"],
    ["inspect"], ["inspect", "no-such-model-name"],
    ["bench", "--batch", "0"], ["bench", "--batch", "1,"], ["bench", "--size", "64"],
    ["bench", "--size", "64x"], ["bench", "--arch", "nonsense"],
    ["bench", "--arch", "ffhq256", "--model", "x"], ["doctor", "now"],
    ["sample", "o.png"], ["sample", "--prior", "p.safetensors"], ["sample", "--steps", "0", "--prior", "p", "o.png"],
    ["sample", "--count", "-1", "--prior", "p", "o.png"], ["sample", "--prior", "no-such-model-name", "o.png"],
    ["serve", "now"], ["serve", "--nonsense", "1"], ["serve", "--listen"], ["serve", "--threads", "x"],
    ["serve", "--max-body", "1xb"], ["serve", "--config", "/no/such/file"],
]


@pytest.mark.parametrize("args", BAD, ids=" ".join)
def test_wrong_usage_is_2_with_one_line(args):
    done = run(*args, code=2)
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"david")


@pytest.mark.parametrize("args", [["serve", "--nope"], ["restore", "--nope", "a.png", "b.png"]], ids=" ".join)
def test_an_unknown_option_is_called_one(args):
    assert b"--nope" in (line := run(*args, code=2).stderr) and b"option" in line and b"value" not in line


@pytest.mark.parametrize("option,value", [("--backend", "abacus"), ("--dtype", "f8")])
def test_a_back_end_or_dtype_that_is_not_to_be_had_is_2(option, value, restorer, photo, tmp_path):
    done = run("restore", "--model", restorer, "--task", "denoise", option, value, photo,
               tmp_path / "o.png", code=2)
    assert value.encode() in done.stderr


@pytest.mark.parametrize("args", [
    ["inspect", "/no/such/file.safetensors"], ["inspect", "/no/such/file.pt"],
    ["restore", "/no/such.png", "/tmp/never.png"],
    ["eval", "--task", "denoise", "--data", "/no/such/folder"],
], ids=" ".join)
def test_a_missing_file_is_1_and_named(args):
    done = run(*args, code=1)
    assert b"/no/such" in done.stderr and done.stdout == b""


def test_doctor_tells_what_auto_takes():
    facts = json.loads(run("doctor", "--json").stdout)
    assert {"david", "processor", "gpu", "libraries", "auto", "cpu", "models"} <= set(facts)
    assert "threads" in facts["auto"]


def test_inspect_tells_what_a_model_is(restorer):
    facts = json.loads(run("inspect", "--json", restorer).stdout)
    assert facts["role"] == "restorer" and facts["tile"] == {"size": 32, "overlap": 8, "margin": 0}
    assert facts["tasks"]["denoise"] == {"sigma": 0.2, "h": 0.01, "label": None}
    assert len(facts["digest"]) == 64 and facts["dtype"] == "F32"


def test_inspect_lists_a_checkpoint():
    names = [t["name"] for t in json.loads(run("inspect", "--json", GOLDEN / "prior.pt").stdout)["tensors"]]
    assert "out.2.weight" in names
