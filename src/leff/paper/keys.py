"""What a run is known by: the digest of what its figures depend on.

run_key(config)              # "01af94f18754c59f"
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leff.runs.options import RunConfig

FILES = ("train", "validation", "test")  # options that name a file


def run_key(config: RunConfig) -> str:
    """Return the digest of what a run's figures depend on, 16 hexadecimal digits.

    Left out: where files lie (a path counts by its last two names), the engine (its workers do
    not change results; threads and devices do so in the last bits), and options that have their
    defaults, so that a result outlives the options that later versions add.  A default that
    changes is noticed when the result is read (`leff.paper.results`).
    """
    values = portable(config.model_dump(mode="json", exclude_defaults=True))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def portable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values without the engine and without what is this machine's."""
    found = {name: value for name, value in values.items() if name != "engine"}
    for section in ("data", "proxy"):
        if section in found:
            own = {key: value for key, value in found[section].items() if key != "folder"}
            named = {key: _short(own[key]) for key in FILES if own.get(key)}
            found[section] = {**own, **named}
    if Path(found.get("model", {}).get("name", "")).is_absolute():
        found["model"] = {**found["model"], "name": _short(found["model"]["name"])}
    return {name: value for name, value in found.items() if value != {}}


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])
