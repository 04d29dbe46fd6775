"""What figures say and how far their axes go, read off the drawn axes."""

from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import pytest

from leff.paper import figures
from leff.paper.cells import Selection
from leff.paper.study import Places, Study
from leff.paper.values import Value
from leff.report.colours import METHOD_COLOURS


def value(row, point, *numbers, metric="matthews"):
    return Value(row, point, "CoLA", metric, dict(enumerate(numbers)), 1)


@pytest.fixture
def axis():
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


@pytest.mark.parametrize("means", [(2.0, 3.0), (-3.0, -1.0), (-2.0, 4.0)])
def test_every_bar_and_its_whisker_is_inside(axis, means):
    own = [value(str(i), "", mean - 1, mean + 1) for i, mean in enumerate(means)]
    figures._bars(axis, own, {str(i): "C0" for i in range(len(own))})
    low, high = axis.get_ylim()
    ends = [end for one in own for end in (one.mean - one.deviation, one.mean + one.deviation, 0)]
    assert low <= min(ends) < max(ends) < high


def test_whiskers_are_of_points_with_a_deviation_and_do_not_overlap(axis):
    own = [value(row, "0.05", 1, 3) for row in "ab"] + [value(row, "5", 2) for row in "ab"]
    figures._lines(axis, own, {"a": "C0", "b": "C1"})
    drawn = [bars for bars in axis.containers if len(bars) == 3]
    places = [
        segment[0, 0] for bars in drawn for segment in bars[2][0].get_segments() if len(segment)
    ]
    assert len(places) == 2 and places[0] < 0.05 < places[1] < 1.2 * places[0]


def test_seeds_are_counted_by_point_or_over_all_rounds():
    figure4, figure8 = (Study.open(name, Selection(), Places()) for name in ("figure4", "figure8"))
    points = [value("a", "0.05", 1, 2, 3), value("b", "0.05", 1, 2), value("a", "5", 1)]
    assert figures._seeds(figure4, points) == "Seeds: 2 to 3 at α = 0.05, 1 at α = 5."
    assert figures._seeds(figure4, [points[2], value("b", "5")]) == "Seeds: 1."
    assert figures._seeds(figure8, points) == "Seeds: 1 to 3."
    assert figures._seeds(figure8, []) == "Seeds: 0."


def drawn(name, values):
    """Return a figure of LEFF's own experiments, as it is before it is written."""
    study = Study.open(name, Selection(), Places())
    with patch("leff.paper.figures.save_figure") as save:
        figures.draw(study, values, Path("any/figure.png"))
    return study, save.call_args.args[0]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def by_round(rounds, rows=("LEFF", "SLoRA")):
    return [value(row, str(i), 3.0 / (i + 1), metric="loss") for row in rows for i in rounds]


@pytest.mark.parametrize(
    ("last", "ticks"), [(8, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (20, [0, 5, 10, 15, 20]), (11, None)]
)
def test_ticks_are_at_rounds_that_there_are(last, ticks):
    _, figure = drawn("figure8", by_round(range(last + 1)))
    (axis,) = [axis for axis in figure.axes if axis.lines]
    figure.canvas.draw()
    low, high = axis.get_xlim()
    seen = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert set(seen) <= set(range(last + 1)) and len(seen) > 3
    assert ticks is None or seen == ticks
    assert [each.get_text() for each in axis.get_xticklabels()] == [f"{tick:g}" for tick in seen]


def test_a_row_has_its_methods_colour_in_every_figure():
    _, figure8 = drawn("figure8", by_round(range(3)))
    lines = {line.get_label(): line.get_color() for line in figure8.axes[0].lines}
    assert lines == {"LEFF": METHOD_COLOURS["leff"], "SLoRA": METHOD_COLOURS["slora"]}
    _, figure6 = drawn("figure6", [value(row, "", 1.0) for row in ("importance", "random")])
    faces = {bar.get_facecolor() for bar in figure6.axes[0].patches}
    assert faces == {plt.matplotlib.colors.to_rgba(METHOD_COLOURS["leff"])}  # both are LEFF's


def test_the_caption_is_text_and_not_in_the_picture():
    points = [value("LEFF", "0.05", 1, 2), value("FedAvg", "5", 1)]
    study, figure = drawn("figure4", points)
    said = figures.figure_caption(study, points)
    assert "Dirichlet(α)" in said and "Seeds: 2 at α = 0.05, 1 at α = 5." in said
    assert said.endswith("Whiskers: one standard deviation over seeds.")
    assert "standard deviation" not in figures.figure_caption(study, points[1:])
    written = [text.get_text() for text in figure.findobj(plt.Text)]
    assert any("Figure 4" in text for text in written)
    assert not any("Dirichlet" in text or "Seeds" in text for text in written)
