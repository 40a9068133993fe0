"""The installed systemd unit: systemd-analyze accepts it, and the daemon works within its system
call filter.

No systemd runs here: libseccomp installs the filter, the user is not root, there are no
capabilities, and this test replaces the manager's notify socket. The file system and device
rules of the unit (ProtectSystem= and similar) are only read.
"""

import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess

import pytest
import requests

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["DAVID_BUILD"])
PHOTO = TOP / "deploy/photos/raccoon.sr4.png"
NOBODY = 65534
PATIENCE = 60


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """The files that `cmake --install` puts below a root."""
    root = tmp_path_factory.mktemp("stage")
    root.parent.chmod(0o755)
    root.chmod(0o755)
    subprocess.run(["cmake", "--install", BUILD], env={**os.environ, "DESTDIR": str(root)}, check=True, stdout=subprocess.DEVNULL)
    return root


@pytest.fixture(scope="module")
def unit(stage):
    (path,) = stage.rglob("david.service")
    return path


def settings(unit):
    """name -> values, in order; an empty value clears the earlier ones, as in systemd."""
    found = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.M):
        found.setdefault(name, []).append(value)
    return found


def test_systemd_accepts_it(stage, unit):
    shutil.copytree("/lib/systemd", stage / "lib/systemd", symlinks=True, dirs_exist_ok=True)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", f"--root={stage}", "/" + str(unit.relative_to(stage))],
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_sandboxed(stage, unit):
    done = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=25", f"--root={stage}",
                           "/" + str(unit.relative_to(stage))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


def test_systemd_waits_longer_than_the_daemon_drains(unit):
    table = (TOP / "server/config.def").read_text()
    drain = int(re.search(r'OPTION\(drain_timeout, \w+, "(\d+)s"', table)[1])
    assert int(settings(unit)["TimeoutStopSec"][0]) > drain
    connections = int(re.search(r'OPTION\(max_connections, \w+, "(\d+)"', table)[1])
    assert int(settings(unit)["LimitNOFILE"][0]) > connections


def test_the_file_of_settings_is_stronger_than_the_unit(stage, unit):
    """A flag of ExecStart would silently override /etc/default/david; with Environment= that
    file overrides the unit."""
    given = settings(unit)
    assert given["EnvironmentFile"] == ["-/etc/default/david"]
    own = dict(line.split("=", 1) for line in given["Environment"])
    env = {"PATH": "/usr/bin:/bin", **own, "DAVID_MODELS": "/srv/models", "DAVID_STATE": "/srv/state"}
    command = [str(stage) + given["ExecStart"][0].split()[0], *given["ExecStart"][0].split()[1:], "--print-config", "--json"]
    found = json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    assert found["models"]["value"] == "/srv/models" and found["state"]["value"] == "/srv/state"


def system_calls(names):
    """The calls of a filter set, its subsets expanded."""
    found = set()
    for name in names:
        if not name.startswith("@"):
            found.add(name)
            continue
        text = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True).stdout
        found |= system_calls(re.findall(r"^    (@?\w[\w-]*)$", text, re.M))
    return found


def fence(calls):
    """A function for the child: every call that is not in `calls` fails with EPERM from then on,
    also after exec."""
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    lib.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    allow, refuse = 0x7FFF0000, 0x00050000 | 1
    context = lib.seccomp_init(refuse)
    assert context
    known = [n for n in (lib.seccomp_syscall_resolve_name(c.encode()) for c in calls) if n >= 0]
    assert len(known) > 200
    for number in known:
        assert lib.seccomp_rule_add(context, allow, number, 0) == 0

    def load():
        if lib.seccomp_load(context) != 0:  # sets no_new_privs first
            os._exit(99)

    return load


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(tmp_path / "notify"))
        (tmp_path / "notify").chmod(0o777)
        s.settimeout(PATIENCE)
        yield s


def test_the_daemon_lives_inside_the_filter(stage, unit, manager, tmp_path):
    given = settings(unit)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    state = tmp_path / "state"
    state.mkdir()
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    os.chown(state, NOBODY, NOBODY)
    # The unit's own command and environment, their absolute paths below the stage.
    command = [str(stage) + a if a.startswith("/") else a for a in given["ExecStart"][0].split()]
    own = dict(line.split("=", 1) for line in given["Environment"])
    own = {name: str(state) if name == "DAVID_STATE" else str(stage) + value for name, value in own.items()}
    env = {**own, "PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": manager.getsockname(), "DAVID_LISTEN": f"127.0.0.1:{port}",
           "OMP_WAIT_POLICY": "passive"}
    load = fence(system_calls(given["SystemCallFilter"][0].split()))

    with open(tmp_path / "david.log", "wb+") as log:
        def confine():
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            load()

        david = subprocess.Popen(command, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=confine)
        try:
            assert b"READY=1" in manager.recv(4096).splitlines()
            status = pathlib.Path(f"/proc/{david.pid}/status").read_text()
            assert re.search(r"^Seccomp:\s+2$", status, re.M) and re.search(r"^CapEff:\s+0+$", status, re.M)
            url = f"http://127.0.0.1:{port}"
            answer = requests.post(url + "/restore?task=sr4&seed=1", data=PHOTO.read_bytes(), timeout=PATIENCE)
            assert answer.status_code == 200, answer.text
            assert requests.get(url + "/metrics", timeout=PATIENCE).status_code == 200
            david.send_signal(signal.SIGTERM)
            assert b"STOPPING=1" in manager.recv(4096).splitlines()
            assert david.wait(PATIENCE) == 0
        except BaseException:
            log.seek(0)
            print(log.read().decode())
            raise
        finally:
            david.kill()
            david.wait(PATIENCE)
