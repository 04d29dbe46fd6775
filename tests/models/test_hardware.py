"""A precision that the hardware lacks is refused before any work."""

from contextlib import nullcontext

import pytest
import torch

from leff.errors import ConfigError
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


def test_a_cpu_computes_both():
    for precision in ("float32", "bfloat16"):
        check_precision(precision, torch.device("cpu"))
