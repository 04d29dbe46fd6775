"""A run's key: the digest of the options that its results depend on.

run_key(config)              # "01af94f18754c59f"
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leff.runs.options import RunConfig

FILES = ("train", "validation", "test")  # options that name a file
FORMER: dict[str, dict[str, tuple[Any, ...]]] = {  # values that do not count; see run_key
    "training": {"learning_rate": (4e-3, None), "calibrated_from": (0.0,), "levelled": (False,)},
    "method": {"weights": ("examples",), "mixed": (False,)},
}


def run_key(config: RunConfig) -> str:
    """Return a run's key: 16 hexadecimal digits of a digest of its options.

    Not counted are folders (a path counts by its last two names) and the engine (workers do not
    change results; threads and devices change their last bits).  Options with default values do
    not count either, so a result stays valid when a later version adds options.  Of a default that
    changed later, the value that the first results had does not count, nor one that stands for
    another (`FORMER`).  If another changes, reading the result raises (`leff.paper.results`).
    """
    values = portable(config.model_dump(mode="json", exclude_defaults=True))
    for section, former in FORMER.items():
        own = getattr(config, section).model_dump(mode="json", include=set(former))
        kept: dict[str, Any] = values.get(section, {})
        for name, uncounted in former.items():
            kept.pop(name, None)
            if own[name] not in uncounted:
                kept[name] = own[name]
        values[section] = kept
    values = {name: value for name, value in values.items() if value != {}}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def options_of(config: RunConfig) -> dict[str, Any]:
    """Return every option that a run's results depend on, by section."""
    return portable(config.model_dump(mode="json"))


def portable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values without the engine and this machine's folders."""
    kept = {name: value for name, value in values.items() if name != "engine"}
    for section in ("data", "proxy"):
        if section in kept:
            own = {key: value for key, value in kept[section].items() if key != "folder"}
            named = {key: _short(own[key]) for key in FILES if own.get(key)}
            kept[section] = {**own, **named}
    if Path(kept.get("model", {}).get("name", "")).is_absolute():
        kept["model"] = {**kept["model"], "name": _short(kept["model"]["name"])}
    return {name: value for name, value in kept.items() if value != {}}


def _short(path: str | list[str]) -> str | list[str]:
    if isinstance(path, list):
        return [str(_short(each)) for each in path]
    return "/".join(Path(path).parts[-2:])
