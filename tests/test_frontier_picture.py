"""The picture of what contexts cost."""

from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from benchmarks.frontier_picture import BEST, draw_frontier, front
from benchmarks.labels import dot_boxes
from leff.files import read_json

RESULTS = Path(__file__).parents[1] / "results"


def row(context, layers, state_bytes, step_flops, error):
    return {
        "context": context,
        "layers": layers,
        "state_bytes": state_bytes,
        "step_flops": step_flops,
        "error": error,
    }


ROWS = [
    row("quantise, 32 bits", 1, 5_000_000, 6_000_000_000, 0.0),
    row("quantise, 8 bits", 1, 3_000_000, 6_000_000_000, 0.003),
    row("quantise, 4 bits", 1, 2_600_000, 6_000_000_000, 0.04),
    row("distil 0.5, 8 bits", 1, 2_700_000, 4_000_000_000, 0.2),
    row("distil 0.5, 4 bits", 1, 2_500_000, 4_000_000_000, 0.21),
    row("drop 0.5, 8 bits", 1, 2_700_000, 4_000_000_000, 0.9),
]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_beats(points):
    kept = [points[i] for i in front(points)]
    assert kept == sorted(set(kept))
    for cost, error in points:
        assert any(c <= cost and e <= error for c, e in kept)
    for a in kept:
        assert not any(b[0] <= a[0] and b[1] <= a[1] for b in points if b != a)


def picture(rows):
    with patch("benchmarks.frontier_picture.save_figure") as save:
        draw_frontier(rows, "tiny", Path("frontier.png"))
    return save.call_args.args[0]


@pytest.fixture(scope="module")
def drawn():
    return picture(ROWS)


def dots(axis):
    return [each for each in axis.collections if isinstance(each, PathCollection)]


def test_what_is_drawn(drawn):
    memory, work = drawn.axes
    for axis, key, unit in ((memory, "state_bytes", 1e6), (work, "step_flops", 1e9)):
        points = [tuple(each.get_offsets()[0]) for each in dots(axis)]
        assert points == [(r[key] / unit, r["error"]) for r in ROWS]
    assert "MB" in memory.get_xlabel() and "GFLOP" in work.get_xlabel()
    assert "trains 1 layer" in drawn.get_suptitle()


def test_one_block_size_a_picture():
    with pytest.raises(ValueError, match="too many"):
        picture([*ROWS, row("quantise, 8 bits", 4, 8_000_000, 8_000_000_000, 0.002)])


def test_the_line_and_the_blue_points_are_the_front(drawn):
    memory, work = drawn.axes
    assert list(memory.lines[0].get_xdata()) == [2.5, 2.6, 3.0, 5.0]
    assert list(work.lines[0].get_xdata()) == [4.0, 6.0]
    blue = [each.get_facecolor()[0] == pytest.approx(to_rgba(BEST)) for each in dots(memory)]
    assert blue == [True, True, True, False, True, False]


def test_every_point_has_a_name_and_there_is_no_legend(drawn):
    memory, work = drawn.axes
    assert [text.get_text() for text in memory.texts] == [each["context"] for each in ROWS]
    assert [text.get_text() for text in work.texts] == [
        *(each["context"] for each in ROWS[:3]),
        "distil 0.5, 8 or 4 bits",  # nearly one point
        "drop 0.5, 8 bits",
    ]
    assert not drawn.legends and not any(axis.get_legend() for axis in drawn.axes)


def covered(axis):
    """Return the pairs of labels, or of a label and a dot, that overlap."""
    renderer = axis.figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in axis.texts]
    boxes += dot_boxes(axis)
    labels = range(len(axis.texts))
    return [(i, j) for i in labels for j in range(i) if boxes[i].overlaps(boxes[j])] + [
        (i, j)
        for i in labels
        for j in range(len(labels), len(boxes))
        if boxes[i].overlaps(boxes[j])
    ]


def test_no_name_covers_another_or_a_point():
    crowd = [
        row(f"distil 0.{i}, 4 bits", 1, 2_500_000 + 9_000 * i, 4e9 + 1e7 * i, 0.21 - 0.02 * i)
        for i in range(6)
    ]
    drawn = picture([*ROWS, *crowd])
    assert [covered(axis) for axis in drawn.axes] == [[], []]


def test_names_on_one_place_do_cover_each_other():
    with patch("benchmarks.frontier_picture.spread"):
        assert covered(picture([*ROWS, row("drop 0.7, 8 bits", 1, 2.7e6, 4e9, 0.9)]).axes[0])


def test_the_file_is_a_picture(tmp_path):
    draw_frontier(ROWS, "tiny", tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["frontier.png"]


def test_the_committed_picture_is_of_committed_figures():
    kept = read_json(RESULTS / "frontier.json", "measure again")
    assert all(len({each["layers"] for each in rows}) == 1 for rows in kept.values())
    for rows in kept.values():
        assert [covered(axis) for axis in picture(rows).axes] == [[], []]
