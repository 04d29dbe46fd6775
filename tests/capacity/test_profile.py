"""`leff profile`: what is measured, what is not, and the file that plans and runs read."""

import json
import tomllib

import pytest
import torch

from leff.capacity import profile as profiling
from leff.capacity.fleet_file import fleet_devices, read_classes
from leff.capacity.profile import calibration_steps, free_bytes
from leff.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    for name, value in {"LAYERS": 2, "BLOCK": 1, "WIDTH": 64, "WORDS": 64, "LENGTH": 16}.items():
        monkeypatch.setattr(profiling, name, value)


def test_a_profile_is_a_class_that_plans_read(small, cli, tmp_path, tiny_gpt2):
    path = tmp_path / "device.toml"
    status, printed, _ = cli("profile", "--out", path, "--name", "my-box", "--repeats", 2, "--json")
    found = json.loads(printed)
    assert status == 0 and found["class"] == "my-box" and found["repeats"] == 2
    assert found["down_bytes_per_second"] is None and found["up_bytes_per_second"] is None
    assert found["link"]["down"] == "not measured: no --server was given"
    median = found["step_seconds"]["median"]
    assert found["flops_per_second"] == pytest.approx(found["step_flops"] / median)
    written = tomllib.loads(path.read_text())["my-box"]
    assert written.keys() == {"count", "memory", "speed"}
    with pytest.raises(ConfigError, match=r"my-box has no down and no up.*leff profile --server"):
        fleet_devices(read_classes(path))
    status, printed, _ = cli(
        "plan", tiny_gpt2, "--device", path, "--down", "20Mbit/s", "--up", "5Mbit/s", "--json"
    )
    plan = json.loads(printed)
    assert status == 0 and plan["class"] == "my-box"
    assert plan["memory_bytes"] == found["memory_bytes"]
    speed = plan["steps"] * plan["step_flops"] / plan["compute_seconds"]
    assert speed == pytest.approx(found["flops_per_second"], rel=1e-3, abs=1e5)


def test_for_a_reader_and_with_a_link(small, cli, tmp_path, monkeypatch):
    measured = profiling.Link(2.5e6, None, "fetched", "not measured: POST 405")
    monkeypatch.setattr(profiling, "measure_link", lambda url: measured)
    path = tmp_path / "d.toml"
    status, printed, _ = cli("profile", "--out", path, "--repeats", 1, "--server", "http://a/b")
    assert status == 0 and "20.00 Mbit/s" in printed and "not measured: POST 405" in printed
    assert tomllib.loads(path.read_text())["device"]["down"] == "20.0000Mbit/s"
    assert 'up = "5Mbit/s"  # an example; not measured: POST 405' in path.read_text()


def test_a_calibration_step_is_counted_as_plans_count(small):
    operations, seconds = calibration_steps(CPU, 3)
    linear, tokens = 12 * 64 * 64, 8 * 16  # of a layer
    attention, head = 4 * 8 * 16**2 * 64, 64 * 64
    wanted = 2 * (2 * linear * tokens + attention + head * tokens)  # forward, both layers
    wanted += 2 * linear * tokens + 2 * attention + 2 * head * tokens  # gradients of inputs
    wanted += 2 * linear * tokens  # and of the block's weights
    assert operations == wanted
    assert len(seconds) == 3 and min(seconds) > 0


def test_a_containers_limit_counts(tmp_path):
    whole = free_bytes(CPU, tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert free_bytes(CPU, tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU, tmp_path) == pytest.approx(whole, rel=0.5) and whole > 10**6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "my box"], "--name must be letters, digits, - and _"),
        (["--device", "cuda:99"], "engine.device"),
        (["--server", "http://localhost/x"], "is this machine"),
    ],
)
def test_what_is_refused(arguments, message, small, cli, tmp_path):
    status, printed, said = cli("profile", "--out", tmp_path / "d.toml", "--repeats", 1, *arguments)
    assert (status, printed) == (2, "") and message in said
    assert not (tmp_path / "d.toml").exists()
