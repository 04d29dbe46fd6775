"""A precision that the hardware lacks is refused before any work."""

from contextlib import nullcontext

import pytest
import torch

from leff.errors import ConfigError
from leff.models import hardware
from leff.models.hardware import check_precision

GPU = torch.device("cuda")


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_on_a_gpu_without_it(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    check_precision("float32", GPU)
    if native:
        return check_precision("bfloat16", GPU)
    with pytest.raises(ConfigError, match="'bfloat16', which Old GPU does not have; use 'float32'"):
        check_precision("bfloat16", GPU)
    return None


@pytest.mark.parametrize(("times", "warned"), [(1.0, False), (7.0, True)])
def test_a_cpu_computes_both_and_says_if_it_is_slow(times, warned, monkeypatch, caplog):
    seconds = {torch.float32: 2e-3, torch.bfloat16: 2e-3 * times}
    monkeypatch.setattr(hardware, "_product_seconds", seconds.__getitem__)
    hardware.warn_of_slow_bfloat16.cache_clear()
    check_precision("float32", torch.device("cpu"))
    assert not caplog.records
    for _ in range(2):  # it is said once
        check_precision("bfloat16", torch.device("cpu"))
    hardware.warn_of_slow_bfloat16.cache_clear()
    assert [f"{times:.1f} times as long" in r.message for r in caplog.records] == [True] * warned


def test_a_product_is_timed():
    assert 0 < hardware._product_seconds(torch.bfloat16) < 10
