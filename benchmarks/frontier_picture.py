"""The picture of what contexts cost: error against a client's bytes, and against a step's FLOPs.

draw_frontier(rows, "all-MiniLM-L6-v2", Path("frontier.png"))
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leff.report.picture import save_figure

Row = Mapping[str, Any]  # context ("drop 0.5, 8 bits"), layers, state_bytes, step_flops, error

MARKERS = {"32 bits": "o", "8 bits": "s", "4 bits": "^"}
OFFSETS = [(x, y) for d in range(6, 60, 6) for y in (d, -d - 6, 0) for x in (d, -d)]  # points
LINEAR_BELOW = 1e-3  # the error's axis is logarithmic above, so that it can show 0


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, error) that no other beats, cheapest first."""
    kept: list[int] = []
    for i in sorted(range(len(points)), key=points.__getitem__):
        if not kept or points[i][1] < points[kept[-1]][1]:
            kept.append(i)
    return kept


def draw_frontier(rows: Sequence[Row], model: str, path: Path) -> None:
    """Draw both panels: colours are contexts, markers their bits, a marker's size the block's.

    A line joins, for each block size, what no other beats in cost and error; those are named.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), layout="constrained")
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
    figure.suptitle(f"{model}: what stands in for the layers that a client does not train")
    figure.legend(handles=_keys(rows), loc="outside lower center", ncols=5)
    figure.canvas.draw()
    for axis in (memory, work):
        _spread(axis, figure)
    save_figure(figure, path)


def _draw(axis: Any, rows: Sequence[Row], costs: Sequence[float]) -> None:
    colours = _colours(rows)
    for cost, row in zip(costs, rows, strict=True):
        way, bits = _parts(row)
        look = {"marker": MARKERS[bits], "color": colours[way], "alpha": 0.7, "linewidths": 0}
        axis.scatter(cost, row["error"], s=_area(row["layers"]), zorder=3, **look)
    for layers in {row["layers"] for row in rows}:
        same = [i for i, row in enumerate(rows) if row["layers"] == layers]
        best = [same[k] for k in front([(costs[i], rows[i]["error"]) for i in same])]
        points = [(costs[i], rows[i]["error"]) for i in best]
        axis.plot(*zip(*points, strict=True), drawstyle="steps-post", color="0.7", zorder=1)
        for i, point in zip(best, points, strict=True):
            _name(axis, rows[i]["context"], point)
    axis.set_yscale("symlog", linthresh=LINEAR_BELOW)
    axis.set_ylim(-LINEAR_BELOW / 3, 3)
    axis.margins(x=0.18)
    axis.grid(alpha=0.3)


def _name(axis: Any, text: str, point: tuple[float, float]) -> None:
    leader = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
    axis.annotate(
        text,
        point,
        OFFSETS[0],
        textcoords="offset points",
        fontsize=8,
        arrowprops=leader,
        zorder=2,
    )


def _spread(axis: Any, figure: Any) -> None:
    """Move each label to the first place near its point where it covers no other, and no point."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    taken = []
    for dots in axis.collections:
        (centre,) = axis.transData.transform(dots.get_offsets())
        half = dots.get_sizes()[0] ** 0.5 / 2 * scale
        taken.append(Bbox([centre - half, centre + half]))
    for text in axis.texts:
        for x, y in OFFSETS:
            text.set(position=(x, y), ha="left" if x > 0 else "right")
            box = Text.get_window_extent(text, renderer)
            if _within(box, axis.bbox) and not any(box.overlaps(other) for other in taken):
                break
        taken.append(Text.get_window_extent(text, renderer))


def _within(box: Any, outer: Any) -> bool:
    return outer.x0 < box.x0 < box.x1 < outer.x1 and outer.y0 < box.y0 < box.y1 < outer.y1


def _keys(rows: Sequence[Row]) -> list[Any]:
    """Return the legend: a colour for each context, a marker for its bits, a size for blocks."""
    from matplotlib.lines import Line2D

    def key(label: str, marker: str, colour: str, area: float = 50) -> Any:
        return Line2D([], [], ls="", label=label, marker=marker, color=colour, markersize=area**0.5)

    sizes = sorted({row["layers"] for row in rows})
    return [
        *(key(way, "D", colour) for way, colour in _colours(rows).items()),
        *(key(bits, marker, "0.4") for bits, marker in MARKERS.items()),
        *(key(f"{_layers(n)} trained", "o", "0.4", _area(n)) for n in sizes),
    ]


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    ways = dict.fromkeys(_parts(row)[0] for row in rows)
    return {way: f"C{number}" for number, way in enumerate(ways)}


def _parts(row: Row) -> tuple[str, str]:
    """Return a context's name with its rate, and its bits."""
    way, _, bits = row["context"].rpartition(", ")
    return way, bits


def _layers(count: int) -> str:
    return f"{count} layer" if count == 1 else f"{count} layers"


def _area(layers: int) -> float:
    return 30 + 40 * (layers - 1)
