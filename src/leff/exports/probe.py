"""How far two models' logits are apart, on a text that both are given.

difference(model, read)      # 1e-6
"""

from typing import Any

import torch

from leff.seeds import forked

TOKENS = 16  # of the text


@torch.no_grad()
def difference(model: Any, other: Any) -> float:
    """Return the largest difference of their logits, relative to the largest logit of `model`."""
    with forked(0):
        ids = torch.randint(model.config.vocab_size, (1, TOKENS))
    wanted, found = (each.eval()(input_ids=ids).logits for each in (model, other))
    return float((found - wanted).abs().max() / wanted.abs().max())
