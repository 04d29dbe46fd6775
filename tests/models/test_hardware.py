"""What the hardware lacks is refused before any work; the device that `auto` takes."""

from contextlib import nullcontext

import pytest
import torch

from leff.errors import ConfigError
from leff.models import hardware
from leff.models.hardware import check_step, torch_device, wide
from leff.wire.messages import Step

GPU, APPLE, CPU = map(torch.device, ("cuda", "mps", "cpu"))
PLAIN, HALF = Step(), Step(precision="bfloat16")


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_on_a_gpu_without_it(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    check_step(PLAIN, GPU)
    if native:
        return check_step(HALF, GPU)
    with pytest.raises(ConfigError, match="'bfloat16', which Old GPU does not have; use 'float32'"):
        check_step(HALF, GPU)
    return None


@pytest.mark.parametrize(("times", "warned"), [(1.0, False), (7.0, True)])
def test_a_cpu_computes_both_and_says_if_it_is_slow(times, warned, monkeypatch, caplog):
    seconds = {torch.float32: 2e-3, torch.bfloat16: 2e-3 * times}
    monkeypatch.setattr(hardware, "_product_seconds", seconds.__getitem__)
    hardware.warn_of_slow_bfloat16.cache_clear()
    check_step(PLAIN, CPU)
    assert not caplog.records
    for _ in range(2):  # it is said once
        check_step(HALF, CPU)
    hardware.warn_of_slow_bfloat16.cache_clear()
    assert [f"{times:.1f} times as long" in r.message for r in caplog.records] == [True] * warned


def test_a_product_is_timed():
    assert 0 < hardware._product_seconds(torch.bfloat16) < 10


def test_apples_gpu_has_no_8_bit_optimizer():
    check_step(HALF, APPLE)
    check_step(Step(optimizer="adamw8bit"), CPU)
    with pytest.raises(ConfigError, match="'adamw8bit' cannot run on 'mps'; use 'adamw'"):
        check_step(Step(optimizer="adamw8bit"), APPLE)


@pytest.mark.parametrize(
    ("nvidia", "apple", "taken"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_a_gpu_where_there_is_one(nvidia, apple, taken, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: nvidia)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    assert torch_device("auto").type == taken


def test_a_device_that_is_not_there_is_one_line():
    if not torch.backends.mps.is_available():
        with pytest.raises(
            ConfigError, match=r"engine.device = 'mps' cannot be used \([^;]{,100}\); use 'auto'"
        ):
            torch_device("mps")
    with pytest.raises(ConfigError, match="use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"):
        torch_device("tpu")


def test_float64_of_a_device_that_has_it_stays_there():
    assert wide(torch.ones(2)).dtype == torch.float64
