"""The live table of a run, and the summary that is printed at its end.

leff.run(progress=LiveTable(Console()))
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from leff.record import ClientRecord, RoundRecord
from leff.wire.messages import Update

if TYPE_CHECKING:
    from leff.methods.method import Plan
    from leff.runs.federation import Federation

MOST_CLASSES = 12  # of a table of what was taken for what
LISTED_REFERENCES = 2  # most references printed for a text
LISTED_CLIENTS = 10  # with more clients, the table only counts how many trained each layer
LINES_KEPT = 4  # lines of the terminal for the table's head and the current step


class LiveTable:
    """Shows rounds as they happen, a row each; without a terminal, prints a line after each."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[tuple[str, ...]] = []
        self._seconds: list[float] = []
        self._rounds, self._metric, self._now = 0, "", ""
        self._more: dict[str, Callable[[RoundRecord], str]] = {}  # columns of some runs only
        self._live: Live | None = None
        self.folder: Path | None = None  # the run's, once it has started

    def __enter__(self) -> "LiveTable":
        return self

    def __exit__(self, *_: object) -> None:
        self._now = ""
        self._refresh(whole=True)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, federation: "Federation") -> None:
        self.folder = federation.folder.path
        self._rounds = federation.config.training.rounds
        self._metric = federation.metric
        if federation.on_devices is not None:
            self._more["devices"] = _on_devices
        if federation.privacy is not None:
            self._more["epsilon"] = _epsilon
        if federation.clients.devices:
            self._more["simulated"] = _simulated
        self._console.print(_heading(federation), highlight=False)
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        self._now = "measuring the model before the first round"
        self._refresh()

    def planned(self, index: int, plan: "Plan") -> None:
        self._jobs, self._trained = len(plan.jobs), 0
        self._now = f"round {index + 1}: {self._jobs} clients at work"
        self._refresh()

    def trained(self, index: int, update: Update) -> None:
        self._trained += 1
        self._now = f"round {index + 1}: {self._trained} of {self._jobs} clients done"
        self._refresh()

    def measured(self, record: RoundRecord) -> None:
        if record.seconds is not None:
            self._seconds.append(record.seconds)
        left = self._rounds - record.round
        more = (cell(record) for cell in self._more.values())
        self._rows.append((*_row(record), *more, self._time_left(left)))
        upcoming = f"round {record.round + 1}: scoring layers, making stand-ins"
        self._now = upcoming if left else "measuring the model with every metric"
        self._refresh()
        if not self._console.is_terminal:
            names = ("round", "train", "loss", self._metric, "layers", "down", "up", "seconds")
            row = self._rows[-1]
            line = "  ".join(
                f"{n} {v}"
                for n, v in zip((*names, *self._more, "left"), row, strict=True)
                if v != ""
            )
            self._console.print(line, highlight=False, soft_wrap=True)

    def _time_left(self, rounds: int) -> str:
        """Return the time for the rounds that are left, by the mean of the last three rounds."""
        recent = self._seconds[-3:]
        return _clock(rounds * sum(recent) / len(recent)) if recent else ""

    def _refresh(self, whole: bool = False) -> None:
        """Draw the table again, with only the newest rows that fit the terminal unless `whole`."""
        if self._live is None:
            return
        rows = self._rows if whole else self._rows[-max(1, self._console.height - LINES_KEPT) :]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("round", "train", "loss", self._metric):
            table.add_column(name, justify="right")
        table.add_column("client:layers trained", overflow="fold")
        for name in ("down", "up", "seconds", *self._more, "left"):
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*row)
        self._live.update(Group(table, Text(self._now, style="dim")))


def _heading(federation: "Federation") -> str:
    from leff.runs.who import who

    config = federation.config
    what = config.method.name
    if what == "leff":
        what += f", context {config.context.name}, {config.method.sampling} sampling"
    model, folder = escape(config.model.name), escape(str(federation.folder.path))
    return (
        f"[bold]{federation.task.name}[/bold] with {model}: {what}\n"
        f"{who(config, federation.clients)}\n"
        f"{_limits(federation)}\n"
        f"run folder {folder}"
    )


def _limits(federation: "Federation") -> str:
    """Return what the run leaves out, and the rate that it takes."""
    config, task, split = federation.config, federation.task, federation.clients.split
    if split is None:
        rows = "training rows stay on the devices"
    else:
        rows = f"{sum(map(len, split.indices)):,} of {len(task.train):,} training rows"
    settings, held = config.evaluation, len(task.validation)
    drawn = (
        f"{rows}, texts up to {config.data.max_length} tokens, "
        f"learning rate {config.training.learning_rate:g}\n"
    )
    if settings.where == "devices":
        return f"{drawn}measured on what each client holds out"
    final = len(task.validation if task.test is None else task.test)
    last = final if settings.final_examples is None else min(final, settings.final_examples)
    also = "" if settings.where == "server" else "; and by each client on what it holds out"
    return (
        f"{drawn}measured on {min(held, settings.examples):,} of {held:,} validation rows, "
        f"at the end on {last:,} of {final:,}{also}"
    )


def _row(record: RoundRecord) -> tuple[str, ...]:
    return (
        str(record.round),
        _number(record.train_loss),
        _number(record.loss),
        _number(record.metric),
        trained_layers(record.clients),
        "" if record.download_bytes is None else bytes_text(record.download_bytes),
        "" if record.upload_bytes is None else bytes_text(record.upload_bytes),
        "" if record.seconds is None else f"{record.seconds:.1f}",
    )


def _on_devices(record: RoundRecord) -> str:
    """Return the devices' cell: ``1.9243, worst 3: 2.4511``, losses of all and of one."""
    if record.devices is None:
        return ""
    worst = record.devices["worst"]
    return _number(record.devices["loss"]) + (
        f", worst {worst['client']}: {_number(worst['loss'])}" if worst else ""
    )


def _epsilon(record: RoundRecord) -> str:
    return "" if record.epsilon is None else f"{record.epsilon:.2f}"


def _simulated(record: RoundRecord) -> str:
    """Return the virtual clock's cell: ``9.8 s, 40% idle, 2 sat out``."""
    if record.sat_out is None and record.round_seconds_simulated is None:
        return ""
    parts = [f"{record.round_seconds_simulated or 0.0:.1f} s"]
    if record.idle_share is not None:
        parts.append(f"{record.idle_share:.0%} idle")
    if record.sat_out:
        parts.append(f"{len(record.sat_out)} sat out")
    return ", ".join(parts)


def trained_layers(clients: Sequence[ClientRecord]) -> str:
    """Return each client's layers, ``0:3 1:4-5``; for many clients, how many trained each."""
    failed = sum(client.failure is not None for client in clients)
    note = f" ({failed} refused)" if failed else ""
    if len(clients) <= LISTED_CLIENTS:
        return " ".join(f"{c.client}:{_span(c)}" for c in clients) + note
    counts = Counter(layer for c in clients if c.failure is None for layer in c.layers)
    listed = " ".join(str(counts[layer]) for layer in range(max(counts, default=-1) + 1))
    return f"{len(clients)} clients; by layer {listed}{note}"


def _span(client: ClientRecord) -> str:
    if client.failure is not None:
        return "refused"
    first, last = client.layers[0], client.layers[-1]
    return str(first) if first == last else f"{first}-{last}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def bytes_text(count: float) -> str:
    """Return a number of bytes for a reader: ``17.8 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def print_result(
    console: Console, result: Mapping[str, Any], places: Mapping[str, str], texts: int = 3
) -> None:
    """Print metrics before and after, some texts with their references, and where files are."""
    before, after = result["before"], result["after"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{after['split']}, {after['examples']} examples")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    table.add_row("loss", _number(before["loss"]), _number(after["loss"]))
    for name, value in after["metrics"].items():
        table.add_row(name, _number(before["metrics"][name]) or "-", _number(value) or "-")
    console.print(table)
    for name, note in after["notes"].items():
        console.print(Text(f"{name}: {note}", style="dim"))
    if worst := after.get("devices", {}).get("worst"):
        loss = _number(worst["loss"]) or "not finite"
        console.print(Text(f"worst client: {worst['client']}, loss {loss}", style="dim"))
    print_confusion(console, after.get("confusion", {}))
    for row in after["texts"][:texts]:
        console.print()
        for label, value in (("input", row["input"]), ("output", row["output"])):
            console.print(Text(f"{label:<10}", style="bold") + Text(value))
        for number, reference in enumerate(row["references"][:LISTED_REFERENCES]):
            label = "reference" if number == 0 else ""
            console.print(Text(f"{label:<10}", style="bold") + Text(reference))
    console.print()
    for name, place in places.items():
        console.print(Text(f"{name:<10}{place}"), soft_wrap=True)


def print_confusion(console: Console, confusion: Mapping[str, Mapping[str, int]]) -> None:
    """Print a row for each class: what its examples were taken for; nothing for many classes.

    If an example may have several classes, it is how many were right, missed or wrong.
    """
    if not 1 < len(confusion) <= MOST_CLASSES:
        return
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = list(next(iter(confusion.values())))
    table.add_column(
        "class, and what it was taken for" if columns == list(confusion) else "class",
        overflow="fold",
    )
    for name in columns:
        table.add_column(Text(name), justify="right", overflow="fold")
    for name, counts in confusion.items():
        table.add_row(Text(name), *(str(counts[other]) for other in columns))
    console.print(table)


def print_rows(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print records with the same keys as a table; columns without any value are left out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    for name in names:
        table.add_column(str(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row[name])) for name in names))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if not 0 < abs(value) < 1e-3 else f"{value:.3g}"
    return "" if value is None else str(value)
