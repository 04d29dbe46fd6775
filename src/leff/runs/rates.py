"""The learning rate of a run that was given none.

    rate_for(model.config, "classification")      # 2e-4 for MiniLM

Wide models want small steps: with AdamW the best rate falls about as one over the width squared
between the small decoders and MiniLM, and about as one over the width beyond.  The table is
measured (`benchmarks.rates`, docs/LOG.md); between its widths the logarithms are interpolated.
"""

import logging
import math
from typing import Any

from leff.runs.options import RunConfig

log = logging.getLogger("leff.runs")
MEASURED = {64: 4e-3, 96: 4e-3, 384: 2e-4, 768: 1e-4}  # width -> rate


def rate_for(config: Any, kind: str) -> float:
    """Return the rate for a model's configuration and a kind of task, to one digit."""
    width = config.hidden_size
    widths = sorted(MEASURED)
    if width <= widths[0]:
        return MEASURED[widths[0]]
    if width >= widths[-1]:
        return _rounded(MEASURED[widths[-1]] * widths[-1] / width)
    right = next(each for each in widths if each > width)
    left = widths[widths.index(right) - 1]
    part = math.log(width / left) / math.log(right / left)
    return _rounded(MEASURED[left] ** (1 - part) * MEASURED[right] ** part)


def _rounded(rate: float) -> float:
    return float(f"{rate:.1g}")


def with_learning_rate(config: RunConfig, model_config: Any, kind: str) -> RunConfig:
    """Return the configuration with a learning rate; one that is given stays."""
    if config.training.learning_rate is not None:
        return config
    rate = rate_for(model_config, kind)
    training = config.training.model_copy(update={"learning_rate": rate})
    return config.model_copy(update={"training": training})
