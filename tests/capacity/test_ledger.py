"""Bytes that are alive, counted on tensors without values."""

import torch
from torch import nn

from leff.capacity.ledger import Ledger


def test_a_tensor_counts_until_it_is_freed():
    with Ledger() as ledger:
        one = torch.zeros(100)
        two = one + 1
        assert ledger.held == 800
        view = two[:10]
        del one, two
        assert ledger.held == 400  # the view keeps its storage
        del view
        assert (ledger.held, ledger.peak) == (0, 800)


def test_a_layers_step_by_hand():
    """Linear, 4 to 6, on 3 rows: the output and what sum() and backward make."""
    with Ledger() as ledger:
        layer = nn.Linear(4, 6, bias=False)
        x = torch.zeros(3, 4)
        held = ledger.held
        assert held == 4 * (24 + 12)
        out = layer(x)
        assert ledger.held - held == 4 * 18
        out.sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.shape == (6, 4)
        assert ledger.before_backward == held + 4 * 18 + 8  # the sum, and the gradient of itself
        del out
        assert ledger.held == held + 4 * 24


def test_numbers_that_code_branches_on_are_real():
    labels = torch.tensor([[1, -100, 3]])
    with Ledger():
        weights = torch.zeros(4, 2)
        assert int((labels != -100).sum()) == 2
        assert weights[labels.clamp(min=0)].shape == (1, 3, 2)
        assert float(weights.sum()) == 1.0 and not bool((weights > 0).any())


def test_nothing_is_held_for_large_shapes():
    with Ledger() as ledger:
        a, b = torch.empty(200_000, 10_000), torch.empty(10_000, 300_000)
        assert (a @ b).shape == (200_000, 300_000)
        assert ledger.peak == 4 * (200_000 * 10_000 + 10_000 * 300_000 + 200_000 * 300_000)
