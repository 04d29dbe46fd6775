"""Which block a client trains: layer scores, and the probabilities made from them (Sec. 3.2).

    scores = layer_scores(model, batches, seed=0)                     # I_l, (L,)
    p = block_probabilities(scores, layers=2, scale="standardised")   # (L - 1,)

The importance of a parameter is the first-order Taylor estimate I_m = (g_m · θ_m)² (Molchanov et
al. 2019).  A layer's importance is the sum over its parameters, a block's the sum over its layers.
The paper takes the softmax of the raw block importances (`scale="literal"`).  These are around
1e-4, so the distribution is uniform to three digits.  `scale="standardised"` first scales the
blocks' importances to mean 0 and deviation 1, and divides by a temperature.

The scores come from the server's own gradient on proxy data (`layer_scores`), or from the clients'
measurements while they train (`RunningScores`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from leff.models import blocks
from leff.models.forward import undisturbed
from leff.models.hardware import wide
from leff.models.losses import mean_loss
from leff.seeds import forked

Scale = Literal["literal", "standardised"]
Sampling = Literal["importance", "round_robin", "random", "fixed"]


def layer_scores(
    model: nn.Module, batches: Sequence[Mapping[str, torch.Tensor]], *, seed: int
) -> np.ndarray:
    """Return I_l for every layer, shape (L,), from the gradient of the mean loss over `batches`.

    The proxy data has no labels of the task.  A decoder's loss is its language model loss on the
    text.  A classifier's loss is the cross-entropy on labels drawn from its own prediction with
    `seed`; where a text may have several classes, each is drawn.  A regressor's loss is the squared
    error to its prediction plus unit noise.  Such samples define the Fisher information.  The model
    is not changed.
    """
    layers = [list(layer.parameters()) for layer in blocks(model)]
    parameters = [parameter for layer in layers for parameter in layer]
    gradients = {parameter: torch.zeros_like(parameter) for parameter in parameters}
    with undisturbed(model), forked(seed):
        model.eval().requires_grad_(False)
        blocks(model).requires_grad_(True)
        for batch in batches:
            loss = _proxy_loss(model, batch) / len(batches)
            terms = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            for parameter, gradient in zip(parameters, terms, strict=True):
                gradients[parameter] += gradient
    return np.array([sum(_importance(p, gradients[p]) for p in layer) for layer in layers])


def _importance(parameter: torch.Tensor, gradient: torch.Tensor) -> float:
    return float((wide(gradient) * wide(parameter.detach())).square().sum())  # Σ I_m


def _proxy_loss(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if "labels" in batch:
        return mean_loss(model, batch)
    logits = model(**batch).logits
    if logits.shape[-1] == 1:
        drawn = logits.detach() + torch.randn_like(logits)
        return nn.functional.mse_loss(logits, drawn)
    if model.config.problem_type == "multi_label_classification":
        drawn = torch.bernoulli(logits.detach().sigmoid())
        return nn.functional.binary_cross_entropy_with_logits(logits, drawn)
    drawn = torch.distributions.Categorical(logits=logits.detach()).sample()
    return nn.functional.cross_entropy(logits, drawn)


class RunningScores:
    """The server's running mean, per layer, of the importance that clients measured.

    A round's score of a layer is that of `Means.scores`.  The running mean is exponential; the
    newest round has the weight `newest`.
    """

    def __init__(self, layers: int, newest: float = 0.5) -> None:
        self._means = np.full(layers, np.nan)  # (L,), NaN where no client has measured yet
        self._newest = newest

    def take_in(self, scores: Mapping[int, float]) -> None:
        """Update the running means with a round's `Means.scores`."""
        for layer, mean in scores.items():
            if not (0 <= layer < len(self._means) and np.isfinite(mean)):
                continue
            before = self._means[layer]
            known = np.isfinite(before)
            self._means[layer] = before + self._newest * (mean - before) if known else mean

    def scores(self) -> np.ndarray:
        """Return the scores, shape (L,).

        A layer without a measurement gets the mean of the measured layers.  Before the first
        measurement all scores are equal.
        """
        known = np.isfinite(self._means)
        return np.where(known, self._means, self._means[known].mean() if known.any() else 1.0)

    def state(self) -> dict[str, torch.Tensor]:
        """Return ``scores`` (L,) in float64, NaN where not measured."""
        return {"scores": torch.tensor(self._means, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self._means = state["scores"].numpy().copy()


def block_probabilities(
    scores: np.ndarray,
    layers: int,
    *,
    scale: Scale = "standardised",
    temperature: float = 1.0,
    exploration: float = 0.0,
) -> np.ndarray:
    """Return the probability of each block of `layers` consecutive layers, shape (L-layers+1,).

    Blocks of equal importance get exactly equal probabilities.  Under either scale the importances
    are divided by `temperature`.  `exploration` is ε in p ← (1 - ε) · p + ε / (L-layers+1), which
    gives each block a chance (source: ε-greedy and Exp3, Auer et al. 2002; not the paper).

    Raises ValueError if `layers` is outside [1, L], `exploration` outside [0, 1], or a score is
    not finite.
    """
    if not 1 <= layers <= len(scores):
        raise ValueError(f"a block has 1 to {len(scores)} layers, got {layers}")
    if not 0 <= exploration <= 1:
        raise ValueError(f"exploration must be 0 to 1, got {exploration}")
    if not np.isfinite(scores).all():
        raise ValueError(f"layer scores must be finite, got {scores}")
    importance = np.lib.stride_tricks.sliding_window_view(scores, layers).sum(axis=1)
    if scale == "standardised":
        deviation = importance.std()
        centred = importance - importance.mean()
        flat = deviation <= 1e-12 * np.abs(importance).max()
        importance = np.zeros_like(centred) if flat else centred / deviation
    importance = importance / temperature
    weights = np.exp(importance - importance.max())
    return (1 - exploration) * (weights / weights.sum()) + exploration / len(weights)


def entropy(probabilities: np.ndarray) -> float:
    """Return the entropy in nats; the uniform distribution has log(number of blocks)."""
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum()) + 0.0


def sampling_entropy(sampling: Sampling, probabilities: np.ndarray) -> float:
    """Return the entropy, in nats, of a client's block.

    `round_robin` and `fixed` are not random, so their entropy is 0.  `random` has the largest
    entropy, log(number of blocks).
    """
    if sampling in ("round_robin", "fixed"):
        return 0.0
    return entropy(probabilities) if sampling == "importance" else float(np.log(len(probabilities)))


def uniforms(count: int, rng: np.random.Generator, *, stratified: bool) -> np.ndarray:
    """Return `count` numbers, each uniform in [0, 1), independent or stratified.

    Stratified, one number falls into each of `count` equal parts of [0, 1), in random order:
    systematic sampling (Madow and Madow 1944).  Each number alone is still uniform.  Among clients
    with the same probabilities, the number that draw a block is within one of its expectation.
    """
    if stratified:
        return (rng.permutation(count) + rng.random()) / count
    return rng.random(count)


def draw_block(probabilities: np.ndarray, uniform: float) -> int:
    """Return the first layer of the block that `uniform` in [0, 1) falls on."""
    first = int(np.searchsorted(np.cumsum(probabilities), uniform, side="right"))
    return min(first, len(probabilities) - 1)  # rounding may leave the sum just below 1
