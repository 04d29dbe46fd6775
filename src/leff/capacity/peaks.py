"""Peaks of candidates, their step done the leanest way, without a rehearsal of each.

    peaks = Peaks(config, "generation", asked)
    peaks.estimate(candidate), peaks.exact(candidate)

A rehearsal of a deep model takes seconds, and there are hundreds of candidates.  So peaks are
estimated from short models: beside the weights, which are counted, what is held grows by the same
bytes with every layer that trains, and with every layer after those.
"""

from dataclasses import replace
from functools import cache

from transformers import PretrainedConfig

from leff.capacity.candidates import Candidate
from leff.capacity.footprint import EXACT, Choice, placed
from leff.capacity.peak import predict, rehearsed
from leff.capacity.sample_job import layout
from leff.capacity.sizes import model_sizes
from leff.methods.stand_ins.stand_in import Context, Recipe
from leff.models import config_from_json, config_to_json, empty_model, family_of, short_config


class Peaks:
    """Peaks for one model and step; `asked` has the batch, which is done example by example."""

    def __init__(self, config: PretrainedConfig, kind: str, asked: Choice) -> None:
        self._config, self._kind = config, kind
        self._asked = replace(asked, accumulation=asked.batch_size)
        self._sizes = model_sizes(empty_model(config, kind), kind)
        self._estimates: dict[Candidate, float] = {}

    def exact(self, candidate: Candidate) -> int:
        """Return the peak by a rehearsal at full depth, at the place of the most."""
        return predict(self._config, self._kind, "leff", candidate.choice(self._asked)).peak

    def estimate(self, candidate: Candidate) -> float:
        """Return about the peak at the first place, behind which most layers have a graph.

        The last place may hold more with another context before the block than after it, and where
        the tail feeds every layer (DeBERTa), so that those before the block have a graph too.
        """
        if candidate not in self._estimates:
            choice, total = candidate.choice(self._asked), len(self._sizes.layers)
            places = [range(candidate.layers)]
            if candidate.setting.suffix or family_of(self._config).tail_feeds_layers:
                places.append(range(total - candidate.layers, total))
            found = max(self._at(place, candidate, choice) for place in places)
            self._estimates[candidate] = found
        return self._estimates[candidate]

    def _at(self, block: range, candidate: Candidate, choice: Choice) -> float:
        held, first = placed(self._sizes, block, choice), block.start == 0
        others = held.stand_in_layers
        base = self._beside(choice, EXACT, 1, 1, first)
        grown = 0
        if len(block) > 1:
            grown += (len(block) - 1) * (self._beside(choice, EXACT, 2, 1, first) - base)
        if others > 1:
            grown += (others - 1) * (self._beside(choice, EXACT, 1, 2, first) - base)
        recipe = Recipe(bits=candidate.setting.bits if others else 32)
        base = self._beside(choice, Context(recipe, recipe), 1, 1, first)
        return held.weights.total + base + grown

    def _beside(
        self, choice: Choice, context: Context, layers: int, others: int, first: bool
    ) -> int:
        """Return what a model of so many layers holds beside its weights, the block first or last.

        From the second example on all hold the same, so that two are enough.
        """
        few = min(choice.batch_size, 2)
        choice = replace(choice, batch_size=few, accumulation=few)
        total = len(self._sizes.layers)  # which may be fewer
        short = short_config(self._config, [i % total for i in range(layers + others)])
        start = 0 if first else others
        sent = layout(context, range(start, start + layers), layers + others)
        found = rehearsed(config_to_json(short), self._kind, "leff", choice, sent)
        return found.peak - found.weights


def peaks_of(config: PretrainedConfig, kind: str, asked: Choice) -> Peaks:
    """Return the peaks of a model and step, the same ones whoever asks."""
    return _peaks(config_to_json(config), kind, asked)


@cache
def _peaks(config_json: str, kind: str, asked: Choice) -> Peaks:
    return Peaks(config_from_json(config_json), kind, asked)
