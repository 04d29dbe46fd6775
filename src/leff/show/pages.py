"""The JSON values of every page, by address: what the server sends, and an export holds.

pages = Pages(Sources([Path("runs")]))
pages.index()["runs"][0]["name"], pages.run("a"), pages.round("a", 3), pages.curve("a")
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from leff.errors import ConfigError, LeffError
from leff.report.colours import METHOD_COLOURS
from leff.show.followed import Followed
from leff.show.plan_view import plan_view
from leff.show.run_view import round_view, run_summary, run_view, value_of
from leff.show.sources import Sources

View = Callable[[str, Followed], dict[str, Any]]

MOST_POINTS = 400  # of a run's curve beside others


class Pages:
    """Makes pages' values; a page of what is not shown raises ConfigError."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._made: dict[tuple[View, str], tuple[int, dict[str, Any]]] = {}

    def index(self) -> dict[str, Any]:
        """Return a row for every run, and what the plans are called."""
        with self._lock:
            runs = self._sources.runs()
            rows = [self._view(run_summary, name, run) for name, run in runs.items()]
        return {
            "version": sum(run.version for run in runs.values()),
            "runs": rows,
            "plans": sorted(self._sources.plans),
            "colours": METHOD_COLOURS,
            "leff": version("leff"),
            "now": time.time(),
        }

    def _view(self, view: View, name: str, run: Followed) -> dict[str, Any]:
        """Return a view of a run, made again only if the run has something new."""
        run.refresh()
        version, known = run.version, self._made.get((view, name))
        if known is None or known[0] != version:
            known = self._made[view, name] = (version, view(name, run))
        return known[1]

    def run(self, name: str) -> dict[str, Any]:
        """Return `run_view` of a run, with the colour table and the time."""
        run = self._run(name)
        return {
            "version": run.version,
            **self._view(run_view, name, run),
            "colours": METHOD_COLOURS,
            "now": time.time(),
        }

    def round(self, name: str, number: int) -> dict[str, Any]:
        """Return `round_view` of one round."""
        found = round_view(self._run(name), number)
        if found is None:
            raise ConfigError(f"{name} has no round {number}")
        return found

    def curve(self, name: str) -> dict[str, Any]:
        """Return loss and metric by round, with the bytes and seconds up to each.

        A run of more than `MOST_POINTS` measured rounds has every k-th of them; ``every`` is k.
        """
        points: list[dict[str, Any]] = []
        spent = seconds = 0.0
        for record in self._run(name).records:
            spent += (record.download_bytes or 0) + (record.upload_bytes or 0)
            seconds += record.seconds or 0.0
            if record.loss is not None or record.metric is not None:
                own = {"round": record.round, "loss": record.loss, "metric": record.metric}
                points.append({**own, "bytes": spent, "seconds": seconds})
        every = -(-len(points) // MOST_POINTS)
        return {"name": name, "every": every, "points": points[:: max(1, every)]}

    def plan(self, name: str) -> dict[str, Any]:
        """Return `plan_view` of a plan, beside what the shown runs measured."""
        if name not in self._sources.plans:
            raise ConfigError(f"there is no plan {name}")
        runs = self._sources.runs()
        for run in runs.values():
            run.refresh()
        return plan_view(name, self._sources.plans[name], runs)

    def devices(self, name: str) -> dict[str, Any]:
        """Return what the server of a network run knows of its devices now; else ``None``s."""
        config = self._run(name).config
        if value_of(config, "engine.name") != "flower":
            return {"server": None, "problem": None}
        given = value_of(config, "engine.server")
        with suppress(ImportError):
            from leff.network.find import find_server
            from leff.network.status import server_status

            try:
                server = server_status(*find_server(None if given is None else Path(given)))
            except (LeffError, OSError, ValueError) as error:
                return {"server": None, "problem": str(error)}
            names = ("address", "running", "devices")
            return {"server": {key: server[key] for key in names}, "problem": None}
        return {"server": None, "problem": "pip install 'leff[server]' shows devices live"}

    def version(self, name: str | None) -> int:
        """Return the version of a run, or of all of them; it grows when there is something new."""
        chosen = list(self._sources.runs().values()) if name is None else [self._run(name)]
        for run in chosen:
            run.refresh()
        return sum(run.version for run in chosen)

    def _run(self, name: str) -> Followed:
        run = self._sources.run(name)
        run.refresh()
        return run
