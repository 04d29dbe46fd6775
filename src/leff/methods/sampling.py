"""Layer sampling (PAPER Sec. 3.2): which block each client trains in a round.

    sampler = BlockSampler(Rule(sampling="importance"), proxy, layers=8)
    drawn = sampler.draw(model, round_context, {client: number of layers})
    drawn.blocks[3]          # range(2, 4)

`leff.methods.importance` computes the layers' scores and the blocks' probabilities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from leff.errors import RunError
from leff.methods.importance import (
    RunningScores,
    Sampling,
    Scale,
    block_probabilities,
    draw_block,
    layer_scores,
    sampling_entropy,
    uniforms,
)
from leff.methods.method import RoundContext
from leff.methods.mixing import mixed_groups
from leff.methods.stand_ins import Batch
from leff.methods.sums import Means
from leff.seeds import derive_seed, numpy_rng


@dataclass(frozen=True)
class Rule:
    """How blocks are drawn.  The paper's rule is ``Rule(scale="literal", stratified=False)``.

    `source` says who measures the importance: the server, on `batches` batches of proxy data a
    round, or the clients while they train.  `exploration` is the share of uniform sampling.  With
    `mixed`, clients that have every label together draw together (`methods.mixing`).  With
    `together` all clients of a round train around one place: each block lies inside all larger
    ones, and nothing depends on who takes part.
    """

    sampling: Sampling = "importance"
    scale: Scale = "standardised"
    temperature: float = 1.0
    source: Literal["proxy", "clients"] = "proxy"
    exploration: float = 0.0
    stratified: bool = True
    mixed: bool = False
    together: bool = False
    batches: int = 2


@dataclass(frozen=True)
class Drawn:
    """Every client's block, and facts about the draw for the round's record."""

    blocks: Mapping[int, range]
    facts: dict[str, Any]


class BlockSampler:
    """Draws blocks; keeps the clients' measurements and the number of turns of each client."""

    def __init__(self, rule: Rule, proxy: Sequence[Batch], layers: int) -> None:
        self._rule, self._proxy, self._layers = rule, proxy, layers
        self._measured = RunningScores(layers)
        self._turns: dict[int, int] = {}  # client -> rounds it took part in
        self._latest: tuple[int, list[range]] | None = None  # a round's nested blocks

    @property
    def together(self) -> bool:
        """Whether all clients of a round train around one place."""
        return self._rule.together

    def draw(
        self,
        model: nn.Module,
        context: RoundContext,
        wanted: Mapping[int, int],
        labels: Mapping[int, Sequence[float]] = MappingProxyType({}),
        seen: Mapping[int, int] = MappingProxyType({}),
    ) -> Drawn:
        """Return a block of ``wanted[client]`` consecutive layers for every client.

        `labels` are a client's examples of each label, by the shares in `seen` of them; clients
        that are not in it have all alike.
        Raises RunError if the model has no finite gradient on the proxy data.
        """
        rule, scores = self._rule, self._scores(model, context)
        clients = sorted(wanted)
        if rule.together:
            return self._together(scores, context, wanted)
        probabilities = {client: self._probabilities(scores, wanted[client]) for client in clients}
        rng = numpy_rng(context.seed, "blocks", context.index)
        groups = self._groups(clients, labels, seen, context)
        chances = uniforms(max(groups) + 1, rng, stratified=rule.stratified)[groups]
        blocks: dict[int, range] = {}
        for client, chance in zip(clients, chances, strict=True):
            first = self._first(client, probabilities[client], chance)
            blocks[client] = range(first, first + wanted[client])
            self._turns[client] = self._turns.get(client, 0) + 1
        entropies = [sampling_entropy(rule.sampling, p) for p in probabilities.values()]
        facts: dict[str, Any] = {
            "layer_scores": None if scores is None else [float(score) for score in scores],
            "entropy": float(np.mean(entropies)),
            **({"groups": list(map(int, groups))} if self._rule.mixed and labels else {}),
            "entropy_uniform": float(np.mean([np.log(len(p)) for p in probabilities.values()])),
        }
        return Drawn(blocks, facts)

    def nested(self, model: nn.Module, context: RoundContext) -> list[range]:
        """Return the round's block of 1, 2, ... L layers, with `together`.

        The block of one layer is drawn by the rule.  A larger one has one layer more, before or
        after, by the blocks' probabilities.  Raises RunError as `draw`.
        """
        if self._latest is None or self._latest[0] != context.index:
            self._nested(self._scores(model, context), context)
        assert self._latest is not None
        return self._latest[1]

    def _nested(self, scores: np.ndarray | None, context: RoundContext) -> list[range]:
        rng, total = numpy_rng(context.seed, "blocks", context.index), self._layers
        single = self._probabilities(scores, 1)
        turn = self._rule.sampling == "round_robin"
        first = context.index % total if turn else draw_block(single, rng.random())
        found = [range(first, first + 1)]
        for layers in range(2, total + 1):
            chances, starts = self._probabilities(scores, layers), (first - 1, first)
            possible = [each for each in starts if 0 <= each <= total - layers]
            weights = np.array([chances[each] for each in possible])
            first = possible[draw_block(weights / weights.sum(), rng.random())]
            found.append(range(first, first + layers))
        self._latest = context.index, found
        return found

    def _together(
        self, scores: np.ndarray | None, context: RoundContext, wanted: Mapping[int, int]
    ) -> Drawn:
        nested = self._nested(scores, context)
        chances = self._probabilities(scores, 1)
        facts: dict[str, Any] = {
            "layer_scores": None if scores is None else [float(score) for score in scores],
            "entropy": sampling_entropy(self._rule.sampling, chances),
            "entropy_uniform": float(np.log(len(chances))),
        }
        return Drawn({client: nested[wanted[client] - 1] for client in sorted(wanted)}, facts)

    def take_in(self, means: Means) -> None:
        """Take in the importance that the round's clients measured."""
        self._measured.take_in(means.scores)

    def _groups(
        self,
        clients: Sequence[int],
        labels: Mapping[int, Sequence[float]],
        seen: Mapping[int, int],
        context: RoundContext,
    ) -> np.ndarray:
        """Return the group of each client, (N,): its own, unless labels are mixed."""
        if not self._rule.mixed or not labels:
            return np.arange(len(clients))
        told = [client in labels for client in clients]
        known = np.array([labels[client] for client in clients if client in labels])  # (n, K)
        counts, of = np.tile(known.mean(axis=0), (len(clients), 1)), np.full(len(clients), np.inf)
        counts[told] = known
        of[told] = [seen.get(client, np.inf) for client in clients if client in labels]
        return mixed_groups(counts, of, numpy_rng(context.seed, "groups", context.index))

    def _scores(self, model: nn.Module, context: RoundContext) -> np.ndarray | None:
        if self._rule.sampling != "importance":
            return None
        if self._rule.source == "clients":
            return self._measured.scores()
        count = self._rule.batches
        batches = in_turn(self._proxy, context.index * count)[:count]
        scores = layer_scores(
            model, batches, seed=derive_seed(context.seed, "importance", context.index)
        )
        if not np.isfinite(scores).all():
            raise RunError(
                f"in round {context.index + 1} the model's loss on the proxy data has no finite "
                "gradient: training has diverged; lower training.learning_rate"
            )
        return scores

    def _probabilities(self, scores: np.ndarray | None, layers: int) -> np.ndarray:
        return block_probabilities(
            np.ones(self._layers) if scores is None else scores,
            layers,
            scale=self._rule.scale,
            temperature=self._rule.temperature,
            exploration=self._rule.exploration,
        )

    def _first(self, client: int, probabilities: np.ndarray, chance: float) -> int:
        if self._rule.sampling == "fixed":
            return client % len(probabilities)
        if self._rule.sampling == "round_robin":  # clients start at different blocks
            return (client + self._turns.get(client, 0)) % len(probabilities)
        return draw_block(probabilities, chance)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the clients' measurements, and ``turns`` as pairs (client, count)."""
        turns = torch.tensor(sorted(self._turns.items()), dtype=torch.int64).reshape(-1, 2)
        return {**self._measured.state(), "turns": turns}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self._measured.load_state(state)
        pairs = cast("list[list[int]]", state["turns"].tolist())  # pyright: ignore[reportUnknownMemberType]
        self._turns = {int(client): int(turns) for client, turns in pairs}


def in_turn(batches: Sequence[Batch], offset: int) -> list[Batch]:
    """Return all batches in order, starting at `offset` and wrapping around."""
    offset %= len(batches)
    return [*batches[offset:], *batches[:offset]]
