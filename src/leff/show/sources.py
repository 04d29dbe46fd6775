"""What a page shows: runs, folders of runs, and plans, each by a name.

    sources = Sources([Path("runs"), Path("plan.json")])
    sources.runs()["a"], sources.plans["plan"]

A folder of runs is looked through again whenever `runs` is called, so new ones appear.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from leff.errors import ConfigError
from leff.show.followed import Followed


class Sources:
    """Raises ConfigError for a path that is no run, no folder of runs, and no plan."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.plans: dict[str, Mapping[str, Any]] = {}
        self._runs: list[Path] = []
        self._roots: list[Path] = []
        self._followed: dict[Path, Followed] = {}
        self._named: dict[str, Followed] = {}
        for path in paths:
            if path.is_file():
                self.plans[path.stem] = read_plan(path)
            elif is_run(path):
                self._runs.append(path)
            elif any(map(is_run, path.glob("*"))):
                self._roots.append(path)
            else:
                what = "is no run folder, and holds none" if path.is_dir() else "does not exist"
                raise ConfigError(f"{path} {what}; `leff list FOLDER` lists the runs in a folder")

    def runs(self) -> dict[str, Followed]:
        """Return all runs by name: the folder's, with as much of its path as sets it apart."""
        found = [path for root in self._roots for path in sorted(root.glob("*")) if is_run(path)]
        paths = list(dict.fromkeys(path.absolute() for path in [*self._runs, *found]))
        for path in paths:
            self._followed.setdefault(path, Followed(path))
        followed = (self._followed[path] for path in paths)
        self._named = dict(zip(_names(paths), followed, strict=True))
        return self._named

    def run(self, name: str) -> Followed:
        """Return a run by name.  Folders are looked through again only if it is not known."""
        found = self._named.get(name) or self.runs().get(name)
        if found is None:
            raise ConfigError(f"there is no run {name}")
        return found


def is_run(path: Path) -> bool:
    """Return whether a folder is a run's; one with a configuration alone is not."""
    begun = ("environment.json", "rounds.jsonl")
    return (path / "config.toml").exists() and any((path / name).exists() for name in begun)


def read_plan(path: Path) -> Mapping[str, Any]:
    """Return what `leff plan --fleet … --json` printed.  Raises ConfigError for anything else."""
    try:
        plan: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no plan in JSON ({error}); {_HOW}") from None
    if not isinstance(plan, dict) or not isinstance(cast("Any", plan).get("classes"), dict):
        raise ConfigError(f"{path} has no plan for classes of devices; {_HOW}")
    return cast("dict[str, Any]", plan)


_HOW = "write one with `leff plan MODEL --fleet FILE --json > plan.json`"


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of each path, as many as it takes for all names to differ."""
    names, parts = [path.name for path in paths], 1
    while len(set(names)) < len(names) and parts < max(len(path.parts) for path in paths):
        parts, twice = parts + 1, Counter(names)
        names = [
            name if twice[name] == 1 else "/".join(path.parts[-parts:])
            for name, path in zip(names, paths, strict=True)
        ]
    return names
