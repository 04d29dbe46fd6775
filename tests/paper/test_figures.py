"""What figures say and how far their axes go, read off the drawn axes."""

import matplotlib.pyplot as plt
import pytest

from leff.paper import figures
from leff.paper.cells import Selection
from leff.paper.study import Places, Study
from leff.paper.values import Value


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
