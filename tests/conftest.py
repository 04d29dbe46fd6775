"""Puts the tests' shared modules on the path: `tiny_models` and `small_rounds`."""

import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

HERE = Path(__file__).parent
settings.register_profile("leff", deadline=None, derandomize=True, database=None)
settings.load_profile("leff")
sys.path.insert(0, str(HERE))
# a shell starts what it puts in the background deaf to Ctrl-C, and programs inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="fuzz tests in their full size")


@pytest.fixture
def count(request):
    """How many cases a test marked `soak(small, full)` tries: `full` with --soak."""
    small, full = request.node.get_closest_marker("soak").args
    return full if request.config.getoption("--soak") else small


@pytest.fixture(autouse=True)
def one_thread():
    """Sums over several threads differ in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path):
    from leff.wire.parts import PartStore

    return PartStore(tmp_path / "parts")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory):
    """A random GPT-2 of four layers with the packaged tokenizer, in a folder."""
    from tiny_runs import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny-gpt2"))


@pytest.fixture
def quick_runs(monkeypatch):
    """Neither Java nor a picture, which takes longer than a tiny run."""
    from tiny_runs import quicken

    quicken(monkeypatch)


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command line in this process: status, standard output, standard error."""
    from tiny_runs import command

    return lambda *arguments: command(capsys, monkeypatch, *map(str, arguments))


@pytest.fixture(scope="session")
def gateway(tmp_path_factory):
    """A gateway that runs in a thread, for every test."""
    from gateways import Gateway

    with Gateway(tmp_path_factory.mktemp("gateway")).in_thread() as running:
        yield running
