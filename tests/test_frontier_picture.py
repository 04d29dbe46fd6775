"""The picture of what contexts cost."""

from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.frontier_picture import draw_frontier, front


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
    row("quantise, 8 bits", 4, 8_000_000, 8_000_000_000, 0.002),
    row("drop 0.5, 4 bits", 4, 7_700_000, 7_000_000_000, 0.9),
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


def test_what_is_drawn(drawn):
    memory, work = drawn.axes
    for axis, key, unit in ((memory, "state_bytes", 1e6), (work, "step_flops", 1e9)):
        points = [tuple(dots.get_offsets()[0]) for dots in axis.collections]
        assert points == [(r[key] / unit, r["error"]) for r in ROWS]
    assert "MB" in memory.get_xlabel() and "GFLOP" in work.get_xlabel()
    sizes = [dots.get_sizes()[0] for dots in memory.collections]
    assert len(set(sizes[:5])) == 1 and sizes[0] < sizes[5] == sizes[6]


def test_the_line_and_the_names_are_the_fronts_of_each_block_size(drawn):
    memory, work = drawn.axes
    names = [text.get_text() for text in memory.texts]
    four, eight, plain = "quantise, 4 bits", "quantise, 8 bits", "quantise, 32 bits"
    assert names == ["distil 0.5, 4 bits", four, eight, plain, "drop 0.5, 4 bits", eight]
    assert [text.get_text() for text in work.texts][:2] == ["distil 0.5, 8 bits", plain]
    assert list(memory.lines[0].get_xdata()) == [2.5, 2.6, 3.0, 5.0]


def test_no_name_covers_another():
    from matplotlib.text import Text

    crowd = [
        row("distil 0.5, 4 bits", 1, 2_500_000 + 9_000 * i, 4e9 + 1e7 * i, 0.21 - 0.01 * i)
        for i in range(6)
    ]
    drawn = picture([*ROWS, *crowd])
    renderer = drawn.canvas.get_renderer()
    for axis in drawn.axes:
        boxes = [Text.get_window_extent(text, renderer) for text in axis.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_file_is_a_picture(tmp_path):
    draw_frontier(ROWS, "tiny", tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["frontier.png"]
