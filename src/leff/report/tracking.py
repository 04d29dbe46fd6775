"""Sends a run's records to an experiment tracker as they come, each once.

    with Tracking("wandb", folder) as tracking:
        result = prepare(config, folder).run(Together([table, tracking]))
        tracking.finished(result)

What was sent is in the run's `tracked.json`, so a resumed run goes on in the tracker's run.  A
tracker that fails later costs a warning: the run itself is in its folder.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from leff.errors import RunError, one_line
from leff.files import read_json, write_json
from leff.record import RoundRecord
from leff.report.trackers import TRACKERS, Entry, Opening, Rows, Tracker
from leff.runs.folder import RunFolder
from leff.runs.options import RunConfig

if TYPE_CHECKING:
    from leff.methods.method import Plan
    from leff.runs.federation import Federation, Progress
    from leff.wire.messages import Update

TRACKED = "tracked.json"
log = logging.getLogger("leff")


class Tracking:
    """A `Progress` that sends records to a tracker."""

    def __init__(self, name: str, folder: RunFolder) -> None:
        self._name, self._folder = name, folder.path
        self._metric = "metric"
        self._tracker: Tracker | None = None
        self._state: dict[str, Any] = {}
        self._unsent: list[RoundRecord] = []

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker is not None:
            self._safely("end its run", self._tracker.close)

    def started(self, federation: "Federation") -> None:
        self.open(federation.config.model_dump(mode="json"), federation.metric)

    def open(self, config: Mapping[str, Any], metric: str) -> None:
        """Start the tracker's run, or go on with it.  RunError if the tracker cannot start."""
        self._metric = metric
        known = _tracked(self._folder).get(self._name, {})
        name = self._folder.absolute().name
        opening = Opening(self._folder, name, flat(config), known.get("id"))
        try:
            with redirect_stdout(sys.stderr):  # standard output is the result's, maybe JSON
                self._tracker = TRACKERS[self._name](opening)
        except Exception as error:  # whatever the tracker raises
            raise RunError(f"{self._name} did not start: {one_line(repr(error))}") from error
        self._state = {"rounds": -1, **known, "id": self._tracker.id}
        self._remember()

    def measured(self, record: RoundRecord) -> None:
        """Send a record, unless it was sent before the run was interrupted."""
        if record.round > self._state["rounds"]:
            self._unsent.append(record)
            self._send()

    def planned(self, index: int, plan: "Plan") -> None: ...
    def trained(self, index: int, update: "Update") -> None: ...

    def finished(self, result: Mapping[str, Any]) -> None:
        """Send what is left, and the figures before and after the run."""
        both = numbers({when: result[when]["metrics"] for when in ("before", "after")})
        if self._state.get("finished") or (
            self._send()
            and self._safely("take the result", self._log, Entry(self._state["rounds"], both))
        ):
            self._remember(finished=True)
        else:
            log.warning(
                "%s has not got everything; `leff resume %s --track %s` sends the rest",
                self._name,
                self._folder,
                self._name,
            )

    def _send(self) -> bool:
        """Send the records that were not sent yet, in their order; return whether all are."""
        while self._unsent:
            record = self._unsent[0]
            values = figures(record, self._metric)
            entry = Entry(record.round, values, tables(record), trained(record))
            if not self._safely(f"take round {record.round}", self._log, entry):
                return False
            self._unsent.pop(0)
            self._remember(rounds=record.round)
        return True

    def _log(self, entry: Entry) -> None:
        assert self._tracker is not None  # `started` came first
        self._tracker.log(entry)

    def _safely(self, what: str, call: Callable[..., None], *given: Any) -> bool:
        """Call the tracker; a failure is a warning, since nothing in the run relies on it."""
        try:
            with redirect_stdout(sys.stderr):
                call(*given)
        except Exception as error:
            log.warning("%s did not %s (%s)", self._name, what, one_line(repr(error)))
            return False
        return True

    def _remember(self, **state: Any) -> None:
        self._state |= state
        write_json(self._folder / TRACKED, {**_tracked(self._folder), self._name: self._state})


class Together:
    """Several `Progress` in one, told in their order."""

    def __init__(self, all_of_them: Sequence["Progress"]) -> None:
        self._all = all_of_them

    def started(self, federation: "Federation") -> None:
        for each in self._all:
            each.started(federation)

    def measured(self, record: RoundRecord) -> None:
        for each in self._all:
            each.measured(record)

    def planned(self, index: int, plan: "Plan") -> None:
        for each in self._all:
            each.planned(index, plan)

    def trained(self, index: int, update: "Update") -> None:
        for each in self._all:
            each.trained(index, update)


def send_finished(name: str, folder: RunFolder, config: RunConfig) -> None:
    """Send the rounds of a finished run, and its figures, that the tracker has not got yet."""
    result = folder.result()
    assert result is not None  # the caller's promise
    with Tracking(name, folder) as tracking:
        tracking.open(config.model_dump(mode="json"), result["metric"])
        for record in folder.records():
            tracking.measured(record)
        tracking.finished(result)


def figures(record: RoundRecord, metric: str) -> dict[str, float]:
    """Return a record's numbers by the names of `rounds.jsonl`, and its metric by its own."""
    found = numbers({k: v for k, v in record.to_dict().items() if k not in ("round", "clients")})
    if "metric" in found:
        found[metric] = found.pop("metric")
    return found


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a number among nested values, by flat names such as `before/BLEU`."""
    return {
        key: value
        for key, value in flat(values, "/").items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def flat(values: Mapping[str, Any], between: str = ".") -> dict[str, Any]:
    """Return nested values by flat names, such as `training.rounds`."""
    return dict(_leaves(values, between))


def _leaves(values: Mapping[str, Any], between: str, start: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = cast("Mapping[str, Any]", value)
            yield from _leaves(inner, between, f"{start}{key}{between}")
        else:
            yield f"{start}{key}", value


def tables(record: RoundRecord) -> dict[str, Rows]:
    """Return a row for each client and one for each layer; a table without rows is left out."""
    clients = [
        {
            "client": each.client,
            "device": each.device or "",
            "layers": ", ".join(map(str, each.layers)),
            "examples": each.examples,
            "steps": each.steps,
            "loss": each.losses[1] if each.losses else None,
            "download_bytes": each.download_bytes,
            "upload_bytes": each.upload_bytes,
            "seconds": each.train_seconds,
            "state_bytes": each.state_bytes,
            "failure": each.failure or "",
        }
        for each in record.clients
    ]
    return {
        name: rows for name, rows in (("clients", clients), ("layers", _layers(record))) if rows
    }


def _layers(record: RoundRecord) -> list[dict[str, Any]]:
    """Return each layer's row: who trained it, how far it moved on average, its importance."""
    scores = record.layer_scores or ()
    done = [each for each in record.clients if each.failure is None]
    count = max([len(scores), *(layer + 1 for layer in trained(record))])
    return [
        {
            "layer": layer,
            "clients": sum(layer in each.layers for each in done),
            "examples": sum(each.examples for each in done if layer in each.layers),
            "norm": _mean(
                [
                    each.norms[each.layers.index(layer)]
                    for each in done
                    if each.norms and layer in each.layers
                ]
            ),
            "importance": scores[layer] if layer < len(scores) else None,
        }
        for layer in range(count)
    ]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def trained(record: RoundRecord) -> list[int]:
    """Return a layer's number for each client that trained it and did not fail."""
    return [layer for each in record.clients if each.failure is None for layer in each.layers]


def _tracked(folder: Path) -> dict[str, Any]:
    return read_json(folder / TRACKED, "delete it: the tracker's run then begins anew") or {}
