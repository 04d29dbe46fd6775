"""Stand-ins for the layers that a client does not train (PAPER Sec. 3.3).

context = make_context("distil", rate=0.5, bits=32)
bank = Bank(Distillation(steps=40, learning_rate=1e-3, attention_weight=0.1))
stand_ins = bank.make(model, context.spans(block, layers), proxy_batches, decided={})
"""

from leff.methods.stand_ins.bank import Bank
from leff.methods.stand_ins.distil import Distillation
from leff.methods.stand_ins.error import block_errors
from leff.methods.stand_ins.stand_in import EXACT, Batch, Context, Recipe, Span, StandIn

# fmt: off
__all__ = [
    "EXACT",
    "Bank",
    "Batch",
    "Context",
    "Distillation",
    "Recipe",
    "Span",
    "StandIn",
    "block_errors",
    "make_context",
]
# fmt: on


def make_context(name: str, *, rate: float = 0.5, bits: int = 32, suffix: str = "") -> Context:
    """Return the context `name`; `suffix` may name another one for the layers after the block.

    `distil` and `drop` keep ⌈n·rate⌉ of n layers, `quantise` keeps all.  Linear weights are sent
    in `bits`.  Raises ValueError for any other name.
    """
    recipes = {
        "distil": Recipe(rate, trained=True, bits=bits),
        "drop": Recipe(rate, bits=bits),
        "quantise": Recipe(bits=bits),
    }
    for wanted in (name, suffix or name):
        if wanted not in recipes:
            raise ValueError(f"no context {wanted!r}")
    return Context(recipes[name], recipes[suffix or name])
