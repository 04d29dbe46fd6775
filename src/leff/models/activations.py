"""Activation functions in one pass, where the library writes them out.

fuse(model)      # GPT-2's GELU keeps one tensor for the backward pass, not four
"""

from torch import nn
from transformers.activations import FastGELUActivation, NewGELUActivation


def fuse(model: nn.Module) -> None:
    """Let torch compute the tanh form of GELU, in place.  Results differ in the last bits.

    Written out it makes eight tensors of its input's size and keeps four.  These are the largest of
    a layer.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
