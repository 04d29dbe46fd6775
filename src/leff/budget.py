"""What a memory budget has room for: block, context, and whether a step has to be done leaner.

    best = within(config, "generation", asked, memory_bytes=2 * 10**9)
    best.candidate.layers, best.candidate.setting, best.accumulation, best.checkpointing

A rehearsal of a deep model takes seconds, and there are hundreds of choices.  So peaks are first
estimated from short models: beside the weights, which are counted, what is held grows by the same
bytes with every layer that trains, with every layer after those, and with every example done at a
time.  The choice itself is rehearsed at full depth, and given up for the next if it is too large.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from transformers import PretrainedConfig

from leff.context.auto import TOLERANCE, Candidate, assumed_errors, candidates
from leff.context.stand_in import Context, Recipe
from leff.errors import ConfigError
from leff.families import config_from_json, config_to_json, empty_model, short_config
from leff.footprint import Choice, placed
from leff.prediction import predict
from leff.rehearsal import rehearse
from leff.sizes import model_sizes


@dataclass(frozen=True)
class Fitted:
    """A candidate, how its step is done, and the peak (estimated, or of a rehearsal)."""

    candidate: Candidate
    choice: Choice
    order: int  # of ways to do a step: plain, then in more and more parts, then checkpointed too
    peak: float


@cache
def _search(config_json: str, kind: str, asked: Choice) -> "Search":
    return Search(config_from_json(config_json), kind, asked)


class Search:
    """The choices for one model and step, with estimated peaks, which are kept."""

    def __init__(self, config: PretrainedConfig, kind: str, asked: Choice) -> None:
        self._config, self._kind, self._asked = config, kind, asked
        self._sizes = model_sizes(empty_model(config, kind), kind)
        self._runs: dict[Any, float] = {}

    @cached_property
    def found(self) -> list[Candidate]:
        """Every block size in every context."""
        return candidates(self._sizes, self._asked)

    @cached_property
    def ways(self) -> list[tuple[int, bool]]:
        """Parts of a batch and checkpointing, in the order in which they are tried."""
        size = self._asked.batch_size
        parts = [number for number in range(1, size + 1) if size % number == 0]
        return [(number, flag) for flag in (False, True) for number in parts]

    def fitted(self, candidate: Candidate, order: int) -> Fitted:
        """Return a candidate with its step done one way, and the estimated peak."""
        parts, checkpointing = self.ways[order]
        choice = replace(
            self._asked,
            layers=candidate.layers,
            context=candidate.setting.context,
            accumulation=parts,
            checkpointing=checkpointing,
        )
        return Fitted(candidate, choice, order, self._estimate(candidate, choice))

    def _estimate(self, candidate: Candidate, choice: Choice) -> float:
        """Return the peak at the first place, behind which most layers have a graph.

        With another context before the block than after it, the last place may hold more: where the
        tail feeds every layer (DeBERTa), those before the block have a graph too.
        """
        total = len(self._sizes.layers)
        places = [range(choice.layers)]
        if candidate.setting.suffix:
            places.append(range(total - choice.layers, total))
        return max(self._estimate_at(block, candidate, choice) for block in places)

    def _estimate_at(self, block: range, candidate: Candidate, choice: Choice) -> float:
        held = placed(self._sizes, block, choice)
        others, first = held.stand_in_layers, block.start == 0
        plain = replace(choice, context=Context(Recipe(), Recipe()))
        base = self._working(plain, 1, 1, first)
        grown = (choice.layers - 1) * (self._working(plain, 2, 1, first) - base)
        grown += (others - 1) * (self._working(plain, 1, 2, first) - base)
        bits = candidate.setting.bits if others else 32
        few = replace(choice, context=Context(Recipe(bits=bits), Recipe(bits=bits)))
        return held.weights.total + self._working(few, 1, 1, first) + grown

    def _working(self, choice: Choice, layers: int, others: int, first: bool) -> float:
        """Return what a model of so many layers holds beside its weights, the block first or last.

        Done in parts, it is taken to grow evenly with a part's size, from parts of one and two.
        """
        size = choice.batch_size // choice.accumulation
        if choice.accumulation == 1:
            return self._rehearsed(replace(choice, layers=layers), others, first)
        parts = (replace(choice, layers=layers, batch_size=2 * n, accumulation=2) for n in (1, 2))
        one, two = (self._rehearsed(part, others, first) for part in parts)
        return one + (size - 1) * (two - one)

    def _rehearsed(self, choice: Choice, others: int, first: bool) -> float:
        key = (choice, others, first)
        if key not in self._runs:
            short = short_config(self._config, range(choice.layers + others))
            start = 0 if first else others
            block = range(start, start + choice.layers)
            found = rehearse(short, self._kind, "leff", choice, block)
            self._runs[key] = found.peak - found.weights
        return self._runs[key]


def within(
    config: PretrainedConfig,
    kind: str,
    asked: Choice,
    memory_bytes: int | None = None,
    step_flops: int | None = None,
) -> Fitted:
    """Return what is nearest to the full model within both budgets, None being no limit.

    The least error (`assumed_errors`, those within `TOLERANCE` counting as equal), then the largest
    block, then the plainest step: in one part before in several, these before checkpointed ones.
    ConfigError, with the least that would do, if nothing fits.
    """
    search = _search(config_to_json(config), kind, asked)
    quick = [c for c in search.found if step_flops is None or c.step_flops <= step_flops]
    if not quick:
        least = min(c.step_flops for c in search.found)
        raise ConfigError(
            f"no client of this model trains a step in {step_flops:.4g} operations; "
            f"the least that would do is {least:.4g}"
        )
    for each in _in_order(search, quick, memory_bytes):
        peak = predict(config, kind, "leff", each.choice).peak
        if memory_bytes is None or peak <= memory_bytes:
            return replace(each, peak=peak)
    smallest = min(
        (search.fitted(c, order) for c in quick if c.layers == 1 for order in _leanest(search)),
        key=lambda each: each.peak,
    )
    least = predict(config, kind, "leff", smallest.choice).peak
    if least <= (memory_bytes or least):
        return replace(smallest, peak=least)
    raise ConfigError(
        f"no client of this model trains within {memory_bytes:,} bytes; the least that would do "
        f"is {least:,} (batches of {asked.batch_size}, {asked.length} tokens)"
    )


def _leanest(search: Search) -> tuple[int, ...]:
    """Return the two ways that can take least: examples one by one, checkpointed or not."""
    return len(search.ways) // 2 - 1, len(search.ways) - 1


def _in_order(search: Search, quick: list[Candidate], memory_bytes: int | None) -> Iterator[Fitted]:
    """Yield what fits by its estimate, the best first: a group of like errors after the other."""
    errors = assumed_errors(quick)
    left = sorted(quick, key=lambda c: errors[c])
    while left:
        bound = errors[left[0]] + TOLERANCE
        group = [c for c in left if errors[c] <= bound]
        group.sort(key=lambda c: (-c.layers, c.state_bytes))
        fits = False
        for candidate in group:
            for order in range(len(search.ways)):
                each = search.fitted(candidate, order)
                if memory_bytes is None or each.peak <= memory_bytes:
                    fits = True
                    yield each
        # without any that fits, the next group begins at the next error
        done = bound if fits else errors[left[0]]
        left = [c for c in left if errors[c] > done]
