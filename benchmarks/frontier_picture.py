"""The picture of what contexts cost: error against a client's bytes, and against a step's FLOPs.

draw_frontier(rows, "all-MiniLM-L6-v2", Path("frontier.png"))
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.labels import label, spread
from leff.report.colours import METHOD_COLOURS
from leff.report.picture import save_figure

Row = Mapping[str, Any]  # context ("drop 0.5, 8 bits"), layers, state_bytes, step_flops, error

BEST, BEATEN = METHOD_COLOURS["leff"], "0.55"
LINEAR_BELOW = 1e-2  # the error's axis is logarithmic above, so that it can show 0
ALIKE = 0.02  # points of one way that differ by less, as a share of an axis, have one label


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, error) that no other beats, cheapest first."""
    kept: list[int] = []
    for i in sorted(range(len(points)), key=points.__getitem__):
        if not kept or points[i][1] < points[kept[-1]][1]:
            kept.append(i)
    return kept


def draw_frontier(rows: Sequence[Row], model: str, path: Path) -> None:
    """Draw both panels, of one block size.  What no other beats is blue, and a line joins it.

    Raises ValueError for rows of several block sizes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    (layers,) = {row["layers"] for row in rows}
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    memory, work = figure.subplots(1, 2, sharey=True)
    _draw(memory, rows, [row["state_bytes"] / 1e6 for row in rows])
    _draw(work, rows, [row["step_flops"] / 1e9 for row in rows])
    memory.set(
        title="Memory: weights, gradients, optimizer",
        xlabel="state of a client (MB)",
        ylabel="relative error of the last hidden state",
    )
    work.set(title="Work", xlabel="one training step (GFLOP)")
    trained = f"{layers} layer" if layers == 1 else f"{layers} layers"
    figure.suptitle(f"{model}: what stands in for the rest, where a client trains {trained}")
    for axis in (memory, work):
        spread(axis)
    save_figure(figure, path)


def _draw(axis: Any, rows: Sequence[Row], costs: Sequence[float]) -> None:
    points = [(cost, row["error"]) for cost, row in zip(costs, rows, strict=True)]
    best = front(points)
    axis.set_yscale("symlog", linthresh=LINEAR_BELOW)
    axis.set_ylim(-LINEAR_BELOW / 3, 2)
    axis.plot(
        *zip(*(points[i] for i in best), strict=True),
        drawstyle="steps-post",
        color=BEST,
        alpha=0.4,
        zorder=1,
    )
    for i, point in enumerate(points):
        axis.scatter(*point, s=30, color=BEST if i in best else BEATEN, zorder=3, linewidths=0)
    axis.margins(x=0.25)
    axis.grid(alpha=0.3)
    for group in _alike(axis, rows, points):
        label(axis, _name([rows[i] for i in group]), points[group[0]])


def _alike(
    axis: Any, rows: Sequence[Row], points: Sequence[tuple[float, float]]
) -> list[list[int]]:
    """Return the indices of rows, together where they are one way and nearly one point."""
    places = axis.transAxes.inverted().transform(axis.transData.transform(points))
    groups: list[list[int]] = []
    for i, (way, _) in enumerate(map(_parts, rows)):
        for group in groups:
            first = group[0]
            if way == _parts(rows[first])[0] and abs(places[i] - places[first]).max() < ALIKE:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _name(rows: Sequence[Row]) -> str:
    """Return ``distil 0.5, 8 bits``; of several rows ``distil 0.5, 32, 8 or 4 bits``."""
    way = _parts(rows[0])[0]
    *some, last = (_parts(row)[1].removesuffix(" bits") for row in rows)
    return f"{way}, {', '.join(some)} or {last} bits" if some else f"{way}, {last} bits"


def _parts(row: Row) -> tuple[str, str]:
    """Return a context's name with its rate, and its bits."""
    way, _, bits = row["context"].rpartition(", ")
    return way, bits
