"""Which client holds which examples.

    partition(task.train, clients=8, scheme="dirichlet", by="label", alpha=0.1).report()

`flwr-datasets` draws the split; a fixed rule repairs clients that have too few examples.  A split
with a client below `min_examples` is drawn again, up to ten times, from seeds derived from the
first.  Then the draw that lacks the fewest examples is taken.  Examples move one by one, at random,
from the client that has most to the client that has fewest; of equal clients the first.  Small
alphas need this: at 0.05, two labels over 40 clients leave empty clients in every draw.
"""

import contextlib
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from leff.errors import ConfigError, DataError, nearest
from leff.seeds import derive_seed, numpy_rng
from leff.tasks.columns import Table

if TYPE_CHECKING:
    import numpy as np
    from flwr_datasets.partitioner import Partitioner

Scheme = Literal["iid", "dirichlet", "column", "files"]
REDRAWS = 10


@dataclass(frozen=True, eq=False)
class Partition:
    """Row numbers of every client, ascending, and how they were drawn.

    `counts` has, for each client, the number of its examples by value of the column `by`, and is
    empty without one.  `moved` counts the examples that the repair moved.
    """

    indices: "tuple[np.ndarray, ...]"
    counts: tuple[dict[str, int], ...]
    moved: int = 0
    redraws: int = 0
    by: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over every client's number of rows and row numbers, as 64-bit integers."""
        sha = hashlib.sha256()
        for rows in self.indices:
            sha.update(len(rows).to_bytes(8, "little"))
            sha.update(rows.astype("<i8").tobytes())
        return sha.hexdigest()

    def report(self, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return a record per client: its number, its examples, and its examples by value.

        `names` are the names of values that are numbers, such as labels.
        """
        return [
            {
                "client": client,
                "examples": len(rows),
                "values": {names[int(v)] if names else v: n for v, n in counts.items()},
            }
            for client, (rows, counts) in enumerate(zip(self.indices, self.counts, strict=True))
        ]


def partition(
    table: Table,
    clients: int,
    scheme: str,
    by: str | None = None,
    alpha: float | None = None,
    seed: int = 0,
    min_examples: int = 1,
) -> Partition:
    """Give every row of `table` to exactly one client; no client stays empty.

    - ``iid``: at random, in equal parts.
    - ``dirichlet``: the shares of every value of the column `by` are drawn from Dirichlet(`alpha`).
    - ``column``: by the values of `by`, one a client.  If there are more values than clients, the
      values go one by one, the largest first, to the client with the fewest examples so far.  If
      there are fewer, every value has one client, and each further client joins the value whose
      clients hold most.  The clients of a value share its examples at random.
    - ``files``: by the values of `by`, one a client.  Nothing is ever moved.

    Raises ConfigError (no clients, an unknown scheme, a column or alpha that is missing or out of
    range) and DataError (fewer examples than the clients need).
    """
    import numpy as np

    _check(len(table), clients, scheme, by, alpha, min_examples)
    names, codes = _codes(table, by)
    if scheme == "files":
        _check_files(codes, names, clients, min_examples)
    parts, redraws = _draw(codes, clients, scheme, alpha, seed, min_examples)
    moved = 0
    if scheme != "files":
        moved = _repair(parts, min_examples, numpy_rng(seed, "repair"))
    indices = tuple(np.sort(rows) for rows in parts)
    counts = tuple(_count(codes[rows], names) for rows in indices)
    return Partition(indices, counts, moved, redraws, by)


def _check(
    examples: int,
    clients: int,
    scheme: str,
    by: str | None,
    alpha: float | None,
    min_examples: int,
) -> None:
    if scheme not in get_args(Scheme):
        raise ConfigError(f"no split is called {scheme!r}{nearest(scheme, get_args(Scheme))}")
    if clients < 1:
        raise ConfigError(f"there must be at least one client, got {clients}")
    if min_examples < 1:
        raise ConfigError(f"every client needs at least one example, got {min_examples}")
    if scheme != "iid" and by is None:
        raise ConfigError(f"a {scheme!r} split needs the column to split by, for example 'label'")
    if scheme == "dirichlet" and not (alpha is not None and 0 < alpha < float("inf")):
        raise ConfigError(f"alpha must be above 0 for a Dirichlet split, got {alpha}")
    if scheme != "files" and examples < clients * min_examples:
        raise DataError(
            f"{examples} examples are too few for {clients} clients of at least {min_examples}; "
            "use fewer clients (clients.count), a smaller clients.min_examples, or more data"
        )


def _check_files(codes: "np.ndarray", names: list[str], clients: int, least: int) -> None:
    """Raise DataError unless every client has a file with at least `least` examples."""
    import numpy as np

    if len(names) != clients:
        raise DataError(
            f"{clients} clients have a file each, but only {len(names)} files have examples among "
            "those drawn; set data.train_examples to 'all', or leave the other files out"
        )
    sizes = np.bincount(codes).tolist()
    if min(sizes) < least:
        raise DataError(
            f"the file {names[sizes.index(min(sizes))]!r} has {min(sizes)} examples for training, "
            f"fewer than clients.min_examples = {least}; leave that out, or the file"
        )


def _codes(table: Table, by: str | None) -> "tuple[list[str], np.ndarray]":
    """Return the values of a column in sorted order, and every row's place among them."""
    import numpy as np

    if by is None:
        return [], np.zeros(len(table), dtype=np.int64)
    if by not in table.columns:
        known = nearest(by, table.columns)
        raise ConfigError(f"clients.by: the data has no column {by!r}{known}")
    values: Sequence[object] = table[by]
    if not all(isinstance(value, str | int) for value in values):
        bins = "label_bin"
        remedy = f"use {bins!r}" if bins in table.columns else "put its values in bins first"
        raise ConfigError(f"{by!r} is not a column of names or whole numbers; {remedy}")
    distinct: list[Any] = sorted(set(cast(Any, values)))  # numpy would pad all to the longest
    places = {value: place for place, value in enumerate(distinct)}
    return [str(value) for value in distinct], np.array([places[v] for v in values], dtype=np.int64)


def _draw(
    codes: "np.ndarray", clients: int, scheme: str, alpha: float | None, seed: int, least: int
) -> "tuple[list[np.ndarray], int]":
    """Return the rows of every client, and the number of redraws, of the best draw."""
    if scheme == "iid":
        return _iid(numpy_rng(seed, "iid").permutation(len(codes)), clients), 0
    if scheme in ("column", "files"):
        return _by_owner(_owners(codes, clients, seed), clients), 0
    best: list[np.ndarray] = []
    fewest = None
    for attempt in range(REDRAWS + 1):
        parts = _dirichlet(codes, clients, float(alpha or 0), derive_seed(seed, "split", attempt))
        lacking = sum(max(least - len(rows), 0) for rows in parts)
        if fewest is None or lacking < fewest:
            best, fewest = parts, lacking
        if not lacking:
            return best, attempt
    return best, REDRAWS


def _iid(order: "np.ndarray", clients: int) -> "list[np.ndarray]":
    from flwr_datasets.partitioner import IidPartitioner

    return _rows({"row": order}, IidPartitioner(clients), clients)


def _dirichlet(codes: "np.ndarray", clients: int, alpha: float, seed: int) -> "list[np.ndarray]":
    import numpy as np
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        num_partitions=clients,
        partition_by="value",
        alpha=alpha,
        min_partition_size=0,  # this file redraws and repairs
        self_balancing=False,
        shuffle=False,  # the order within a client is not kept
        seed=seed,
    )
    return _rows({"row": np.arange(len(codes)), "value": codes}, partitioner, clients)


def _by_owner(owners: "np.ndarray", clients: int) -> "list[np.ndarray]":
    import numpy as np
    from flwr_datasets.partitioner import NaturalIdPartitioner

    partitioner = NaturalIdPartitioner(partition_by="owner")
    with contextlib.redirect_stderr(io.StringIO()):  # it draws a progress bar
        return _rows({"row": np.arange(len(owners)), "owner": owners}, partitioner, clients)


def _rows(
    columns: "dict[str, np.ndarray]", partitioner: "Partitioner", clients: int
) -> "list[np.ndarray]":
    """Return the rows of every client, by a partitioner that sees row numbers only."""
    import numpy as np
    from datasets import Dataset

    class Eager(Dataset):
        """Gives a column as an array, since numpy reads a lazy column entry by entry."""

        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, str):
                return self.data[key].to_numpy()
            return cast(Any, super().__getitem__(key))

    partitioner.dataset = Eager(Dataset.from_dict(columns).data)
    parts = [partitioner.load_partition(client) for client in range(clients)]
    tables = [cast(Any, part.with_format("arrow"))[:] for part in parts]
    return [table["row"].to_numpy().astype(np.int64) for table in tables]


def _owners(codes: "np.ndarray", clients: int, seed: int) -> "np.ndarray":
    """Return the client of every row, by the rule for ``column`` in `partition`."""
    import numpy as np

    sizes = np.bincount(codes)
    if len(sizes) >= clients:
        if len(sizes) == clients:
            return codes
        load, owner = np.zeros(clients), np.zeros(len(sizes), dtype=np.int64)
        for value in np.argsort(-sizes, kind="stable"):
            owner[value] = load.argmin()
            load[owner[value]] += sizes[value]
        return owner[codes]
    shares = np.ones(len(sizes), dtype=np.int64)
    for _ in range(clients - len(sizes)):
        shares[np.argmax(sizes / shares)] += 1
    owners, first = np.empty_like(codes), 0
    for value, share in enumerate(shares):
        rows = numpy_rng(seed, "share", value).permutation(np.nonzero(codes == value)[0])
        owners[rows] = first + np.arange(len(rows)) % share
        first += share
    return owners


def _repair(parts: "list[np.ndarray]", least: int, rng: "np.random.Generator") -> int:
    """Move examples until every client has `least`; return how many were moved."""
    import numpy as np

    moved = 0
    while min(sizes := [len(rows) for rows in parts]) < least:
        giver, taker = sizes.index(max(sizes)), sizes.index(min(sizes))
        place = rng.integers(sizes[giver])
        parts[taker] = np.append(parts[taker], parts[giver][place])
        parts[giver] = np.delete(parts[giver], place)
        moved += 1
    return moved


def _count(codes: "np.ndarray", names: list[str]) -> dict[str, int]:
    import numpy as np

    if not names:
        return {}
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}
