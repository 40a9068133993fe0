import sys
import pathlib

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import nano
from daemon import Daemon


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "nano.safetensors").write_bytes(nano.model())
    (folder / "denoiser.safetensors").write_bytes(nano.model(seed=2, tasks=("denoise",)))
    return folder


@pytest.fixture(scope="session")
def daemon(models, tmp_path_factory):
    """The daemon that most tests share; each must leave it as it was."""
    d = Daemon(tmp_path_factory.mktemp("daemon"), models, max_body="1MiB", max_pixels=40000, max_samples=16,
               max_queue=64, memory_budget="128MiB", header_timeout="2s", body_timeout="2s").start()
    yield d
    assert d.stop() == 0, d.log()


@pytest.fixture
def start(models, tmp_path):
    """Starts daemons for one test alone: start(setting=value); wait=False: returns before it listens."""
    started = []

    def one(**settings):
        folder = tmp_path / str(len(started))
        folder.mkdir()
        wait = settings.pop("wait", True)
        started.append(Daemon(folder, settings.pop("models", models), **settings))
        return started[-1].start() if wait else started[-1]

    yield one
    for d in started:
        if d.alive():
            d.process.kill()
        d.process.wait()
