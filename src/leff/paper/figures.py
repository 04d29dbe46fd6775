"""Draws figures: a panel for each column, a line or bar for each row, bands or whiskers.

draw(study, study.values(), Path("figure4.png"))
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leff.paper.captions import averages_line, caption
from leff.paper.study import Study
from leff.paper.values import Value
from leff.report.colours import colours_of
from leff.report.picture import save_figure

COLUMNS_MOST = 3  # most panels beside each other
APART = 0.012  # between the whiskers of two rows at a point, as a share of the axis
WIDE = 20  # the axis is logarithmic if largest / smallest point is more
LEGEND_INCHES = 0.35  # below the figure's top
PAPERS = "the paper's"
NOT_YET = "not run yet"
MOST_TICKS = 6  # about, on the axis of rounds


def draw(study: Study, values: Sequence[Value], path: Path) -> None:
    """Draw a figure as PNG.  A panel without any value says so.

    Columns that the size does not have get no panel.  Averages come first.  A row has its method's
    colour.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(values)
    across = min(COLUMNS_MOST, len(panels)) or 1
    down = -(-len(panels) // across) or 1
    figure = Figure(figsize=(4.6 * max(across, 2), 3.4 * down + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).ravel())
    methods = {row: study.experiment.method(row) for row in study.experiment.rows}
    colour_of = colours_of(methods.values())
    colours = {row: colour_of[method] for row, method in methods.items()}
    lines = study.experiment.kind != "bars"
    for axis, (column, own) in zip(axes, panels.items(), strict=False):
        (_lines if lines else _bars)(axis, own, colours)
        axis.set_title(column)
        if lines:
            axis.set_xlabel(study.experiment.axis)
        axis.set_ylabel(_unit(study, own))
        axis.grid(alpha=0.3, axis="both" if lines else "y")
        if not any(value.by_seed for value in own):
            axis.text(0.5, 0.5, NOT_YET, ha="center", va="center", transform=axis.transAxes)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    _head(figure, study, axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)


def _head(figure: Any, study: Study, axes: Sequence[Any]) -> None:
    """Add the title and the legend."""
    name = study.experiment.spoken.capitalize()
    title = f"{name} ({study.selection.size}): {study.experiment.title}"
    handle_of: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        handle_of |= dict(zip(labels, handles, strict=True))
    if len(handle_of) > 1:
        title += "\n\n"  # the legend's place
        named = [label for label in (*study.experiment.rows, PAPERS) if label in handle_of]
        below = 1 - LEGEND_INCHES / figure.get_figheight()
        look = {"loc": "upper center", "bbox_to_anchor": (0.5, below), "frameon": False}
        figure.legend([handle_of[label] for label in named], named, ncols=len(named), **look)
    figure.suptitle(title)


def figure_caption(study: Study, values: Sequence[Value]) -> str:
    """Return the text for below a figure: how it was made, its seeds, and what its bands are."""
    sentences = [caption(study), averages_line(values), _seeds(study, values)]
    if any(value.deviation is not None for value in values):
        spread = "Bands" if study.experiment.kind == "rounds" else "Whiskers"
        sentences.append(f"{spread}: one standard deviation over seeds.")
    return " ".join(filter(None, sentences))


def _seeds(study: Study, values: Sequence[Value]) -> str:
    """Return the sentence on the number of seeds; by point if it differs between points."""
    there = [value for value in values if value.by_seed]
    counts_at: dict[str, set[int]] = {}
    for value in there:
        place = "" if study.experiment.kind == "rounds" else value.point
        counts_at.setdefault(place, set()).add(len(value.by_seed))
    ranges = {
        place: str(*counts) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        for place, counts in counts_at.items()
    }
    if len(set(ranges.values())) <= 1:
        return f"Seeds: {next(iter(ranges.values()), '0')}."
    axis = study.experiment.axis
    return f"Seeds: {', '.join(f'{n} at {axis} = {point}' for point, n in ranges.items())}."


def _panels(values: Sequence[Value]) -> dict[str, list[Value]]:
    """Return the values by column, averages first, without columns that the size lacks."""
    panels: dict[str, list[Value]] = {}
    for value in sorted(values, key=lambda value: value.metric != "mean"):
        if not value.left_out:
            panels.setdefault(value.column, []).append(value)
    return panels


def _unit(study: Study, values: Sequence[Value]) -> str:
    value = values[0]
    if study.experiment.kind == "rounds":
        return "validation loss"
    return value.metric if value.digits > 2 else f"{value.metric}, points"


def _lines(axis: Any, values: Sequence[Value], colours: dict[str, str]) -> None:
    """Draw a line for each row, and the paper's values as hollow diamonds."""
    rows = list(dict.fromkeys(value.row for value in values))
    marks = sorted({float(value.point) for value in values})
    logarithmic = marks[0] > 0 and marks[-1] / marks[0] > WIDE
    for place, row in enumerate(rows):
        own = [value for value in values if value.row == row]
        there = [value for value in own if value.mean is not None]
        x, mean = [float(value.point) for value in there], [value.mean or 0.0 for value in there]
        if own[0].metric == "loss":
            spread = [value.deviation or 0.0 for value in there]
            low = [m - s for m, s in zip(mean, spread, strict=True)]
            high = [m + s for m, s in zip(mean, spread, strict=True)]
            axis.fill_between(x, low, high, color=colours[row], alpha=0.15, linewidth=0)
        else:
            x = _beside(x, place - (len(rows) - 1) / 2, marks, logarithmic)
            whiskers = [v.deviation if v.deviation is not None else math.nan for v in there]
            axis.errorbar(x, mean, whiskers, fmt="none", ecolor=colours[row], capsize=3)
        if there:
            axis.plot(
                x, mean, marker="o", markersize=4, label=row, color=colours[row], linewidth=1.5
            )
        paper = [(float(value.point), value.paper) for value in own if value.paper is not None]
        if paper:
            paper_x, paper_y = zip(*paper, strict=True)
            axis.plot(paper_x, paper_y, ls="", marker="D", mfc="none", color=colours[row])
    if any(value.paper is not None for value in values):
        axis.plot([], [], ls="", marker="D", mfc="none", color="0.4", label=PAPERS)
    _scale(axis, marks, logarithmic)


def _beside(
    x: Sequence[float], places: float, marks: Sequence[float], logarithmic: bool
) -> list[float]:
    """Return points shifted by `places`, so that the whiskers of rows do not overlap."""
    if logarithmic:
        return [point * (marks[-1] / marks[0]) ** (APART * places) for point in x]
    return [point + APART * places * (marks[-1] - marks[0]) for point in x]


def _scale(axis: Any, points: Sequence[float], logarithmic: bool) -> None:
    """Set the axis's scale, and its ticks at points that there are: at all, if they are few."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
    ticks = list(points)
    if len(points) >= 10:
        steps = MaxNLocator(MOST_TICKS, integer=True, steps=[1, 2, 5, 10])
        ticks = [tick for tick in steps.tick_values(points[0], points[-1]) if tick in points]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.set_xticklabels([f"{tick:g}" for tick in ticks])


def _bars(axis: Any, values: Sequence[Value], colours: dict[str, str]) -> None:
    """Draw a bar for each row with its mean above it, and whiskers for two seeds or more."""
    there = [value for value in values if value.mean is not None]
    for place, value in enumerate(values):
        if value.mean is None:
            continue
        error = value.deviation
        axis.bar(place, value.mean, yerr=error, color=colours[value.row], capsize=4, width=0.7)
        digits = value.digits if value.digits < 3 else 3
        axis.annotate(
            f"{value.mean:.{digits}f}",
            (place, value.mean + (error or 0.0)),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axis.set_xticks(range(len(values)), [value.row for value in values])
    if there:
        means = [(value.mean or 0.0, value.deviation or 0.0) for value in there]
        ends = [0.0, *(end for m, d in means for end in (m - d, m + d))]
        room = 0.15 * (max(ends) - min(ends)) or 1.0
        axis.set_ylim(min(ends) - (room if min(ends) < 0 else 0), max(ends) + room)
