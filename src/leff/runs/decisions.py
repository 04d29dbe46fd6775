"""What a clock decided in a round, saved so that a resumed round decides the same.

    decisions = run_folder.decisions(round_index)
    if "participants" not in decisions:
        decisions["participants"] = whoever_was_in_time()
    participants = decisions["participants"]

Time budgets and deadlines are not deterministic.  Their decisions (numbers of steps, who took
part) are written to disk at once, and read again when the run is resumed.  The file is
``{round: {name: value}}``, rounds from 0, and empty if no clock decides.  One process writes it,
from one thread.
"""

import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from leff.errors import CheckpointError
from leff.files import read_json, write_json


class Decisions(MutableMapping[str, Any]):
    """One round's decisions, by name.

    A value is converted to JSON when it is set (a tuple becomes a list), so an uninterrupted run
    reads the same values as a resumed one.  Setting raises TypeError for a value that JSON does
    not have, ValueError for a NaN or an infinity.
    """

    def __init__(self, path: Path, round_index: int) -> None:
        """Read the round's decisions so far.  Raises CheckpointError if the file is damaged."""
        self._path = path
        self._rounds = _read(path)
        self._values = self._rounds.setdefault(str(round_index), {})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = json.loads(json.dumps(value, allow_nan=False))
        write_json(self._path, self._rounds)

    def __delitem__(self, name: str) -> None:
        del self._values[name]
        write_json(self._path, self._rounds)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def forget_decisions(path: Path, before: int) -> None:
    """Drop the rounds below `before`.  Raises CheckpointError if the file is damaged."""
    rounds = _read(path)
    kept = {index: values for index, values in rounds.items() if int(index) >= before}
    if kept != rounds:
        write_json(path, kept)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    remedy = (
        "remove it and the folder checkpoints, and resume, which starts again from the first "
        "round with new decisions"
    )
    rounds = read_json(path, remedy) or {}
    if not all(index.isdecimal() and isinstance(own, dict) for index, own in rounds.items()):
        raise CheckpointError(f"{path} is damaged (it is not decisions by round); {remedy}")
    return rounds
