"""The learning rate of a run that was given none.

    rate_for(model.config, "classification")      # 4e-4 for MiniLM

With AdamW wide models want small steps.  Rates of the widths in `MEASURED` are measured for LEFF
(`benchmarks.rates`, docs/LOG.md).  Between these widths log rate is linear in log width.  Beyond
them the rate goes with one over the width, but no small model gets more than the largest here.
"""

import logging
import math
from typing import Any

from leff.methods.registry import spec_of
from leff.models.kinds import LANGUAGE_KINDS
from leff.runs.options import RunConfig

log = logging.getLogger("leff.runs")
MEASURED = {  # kind of task -> {width: rate}
    "language": {64: 4e-3, 96: 4e-3, 576: 4e-4},
    "label": {384: 4e-4, 768: 2e-4},
}
LARGEST = 4e-3


def rate_for(config: Any, kind: str, factor: float = 1.0) -> float:
    """Return the rate for a model's configuration and a kind of task, to one digit.

    `factor` is the method's (`MethodSpec.rate_factor`).
    """
    rates = MEASURED["language" if kind in LANGUAGE_KINDS else "label"]
    width, widths = config.hidden_size, sorted(rates)
    left = max((each for each in widths if each <= width), default=widths[0])
    right = min((each for each in widths if each >= width), default=widths[-1])
    if left < right:
        part = math.log(width / left) / math.log(right / left)
        rate = rates[left] ** (1 - part) * rates[right] ** part
    else:
        rate = min(rates[left] * left / width, LARGEST)
    return float(f"{min(factor * rate, 2 * LARGEST):.1g}")


def with_learning_rate(config: RunConfig, model_config: Any, kind: str) -> RunConfig:
    """Return the configuration with a learning rate; one that is given stays."""
    if config.training.learning_rate is not None:
        return config
    method = config.method.name
    rate = rate_for(model_config, kind, spec_of(method).rate_factor)
    log.info(
        "training.learning_rate = %g, chosen for %s, %s and a width of %d",
        *(rate, method, kind, model_config.hidden_size),
    )
    training = config.training.model_copy(update={"learning_rate": rate})
    return config.model_copy(update={"training": training})
