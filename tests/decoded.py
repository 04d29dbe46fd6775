"""What quantised layers stand for, worked out from the formats' own definitions."""

import torch
from tiny_models import tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

from leff.models import blocks
from leff.models.quantised import GROUP_SCALE, SCALE

NAMES = ["gpt2", "llama", "bert", "deberta-v3"]
# The values of NF4, from the paper's appendix (Dettmers et al. 2023, E)
# fmt: off
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
])
# fmt: on


def layer_of(name, index=1):
    return blocks(tiny(name, "classification"))[index]


def linears(layer):
    return {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear | Conv1D)}


def rows(linear):
    """The weight as (out, in)."""
    return linear.weight.t() if isinstance(linear, Conv1D) else linear.weight


def value(tensors, path):
    """The weight (out, in) that is sent, worked out from the formats' definitions."""
    codes = tensors[f"{path}.weight"]
    if codes.dtype == torch.bfloat16:
        return codes.float()
    if codes.dtype == torch.int8:
        return codes * (tensors[f"{path}.{SCALE}"] / 127)[:, None]
    indices = torch.stack([codes >> 4, codes & 15], -1).flatten()
    scales = tensors[f"{path}.{GROUP_SCALE}"].repeat_interleave(64)[: len(indices)]
    return (NF4[indices.long()] * scales).view(len(codes), -1)


def with_values(layer, tensors):
    """The layer with plain linear modules that hold what is sent."""
    with torch.no_grad():
        for path, linear in linears(layer).items():
            weight = value(tensors, path)
            linear.weight.copy_(weight.t() if isinstance(linear, Conv1D) else weight)
    return layer
