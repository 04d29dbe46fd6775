"""Labels beside the points of a picture, in place of a legend.

label(axis, "8 bits", (64.0, 0.029))    # one for each point
spread(axis)                            # once all is drawn: no label covers another, or a dot
"""

from collections.abc import Sequence
from typing import Any

Offset = tuple[float, float]  # from the point, in printer's points

AROUND: Sequence[Offset] = [(x, y) for d in range(6, 60, 6) for y in (0, d, -d) for x in (d, -d)]
RIGHT: Sequence[Offset] = [(10, 0), *((10, sign * d) for d in range(4, 80, 4) for sign in (-1, 1))]

APART = 1  # around each label, in the picture's dots


def label(axis: Any, text: str, point: tuple[float, float]) -> None:
    """Write a text beside a point."""
    axis.annotate(
        text,
        point,
        AROUND[0],
        textcoords="offset points",
        fontsize=8,
        verticalalignment="center",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.5},
    )


def spread(axis: Any, offsets: Sequence[Offset] = AROUND) -> None:
    """Move each label to the first of `offsets` where it covers no other and no dot, and is inside.

    Labels come in the order of their points from the top down.  Dots are those of `scatter`.  A
    thin line goes from each label to its point.
    """
    from matplotlib.text import Text

    figure = axis.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    taken = dot_boxes(axis)
    for text in sorted(axis.texts, key=lambda text: -text.xy[1]):
        for x, y in offsets:
            text.set(position=(x, y), ha="left" if x > 0 else "right")
            box = Text.get_window_extent(text, renderer).padded(APART)
            if _within(box, axis.bbox) and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        edge = (box.x0 if x > 0 else box.x1, (box.y0 + box.y1) / 2)
        ends = (axis.transData.inverted().transform(edge), text.xy)
        look = {"color": "0.5", "linewidth": 0.5, "zorder": 2}
        axis.plot(*zip(*ends, strict=True), scalex=False, scaley=False, **look)


def dot_boxes(axis: Any) -> list[Any]:
    """Return the boxes of what `scatter` drew, in the picture's dots."""
    from matplotlib.collections import PathCollection
    from matplotlib.transforms import Bbox

    drawn = (each for each in axis.collections if isinstance(each, PathCollection))
    boxes: list[Any] = []
    for dots in drawn:
        half = dots.get_sizes()[0] ** 0.5 / 2 * axis.figure.dpi / 72
        centres = axis.transData.transform(dots.get_offsets())
        boxes += [Bbox([centre - half, centre + half]) for centre in centres]
    return boxes


def _within(box: Any, outer: Any) -> bool:
    return outer.x0 < box.x0 < box.x1 < outer.x1 and outer.y0 < box.y0 < box.y1 < outer.y1
