"""The picture of a run."""

from pathlib import Path

import numpy as np
import pytest
from made_up_records import client_record, round_record

from leff.report.picture import draw_run

ZERO = round_record(0, loss=3.0, metric=0.0)


def record(number, **more):
    clients = (
        client_record(0, [0]),
        client_record(1, [1, 2]),
        client_record(2, [5], "the loss was nan"),
    )
    return round_record(number, **{"train_loss": 2.0, "clients": clients} | more)


CASES = {
    "leff": [
        ZERO,
        *(record(i, loss=1.0, metric=0.5, layer_scores=[1.0, 2.0, 0.5, 0.1]) for i in (1, 2, 3)),
    ],
    "fedavg, without scores": [ZERO, record(1, loss=1.0, metric=0.5)],
    "rounds that were not measured": [ZERO, record(1, layer_scores=[1.0] * 4), record(2)],
    "scores that were not finite": [ZERO, record(1, layer_scores=[None, 1.0, 2.0, 0.0])],
    "scores of zero": [ZERO, record(1, layer_scores=[0.0] * 4)],
    "nothing trained": [ZERO, record(1, train_loss=None, clients=())],
    "nothing measured": [round_record(0), record(1)],
}


@pytest.mark.parametrize("name", CASES)
def test_a_picture_with_something_in_it(name, tmp_path):
    from matplotlib.image import imread

    path = tmp_path / "rounds.png"
    draw_run(CASES[name], "BLEU", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    pixels = imread(path)
    assert pixels.shape[0] > 500 and pixels.shape[1] > 800
    colours = (pixels[..., :3] * 255).round().astype(int) @ (1, 256, 256**2)  # a number each
    assert len(np.unique(colours)) > 20


def drawn(records):
    """Return the axes of the picture by title."""
    from unittest.mock import patch

    with patch("leff.report.picture.save_figure") as save:
        draw_run(records, "BLEU", Path("rounds.png"))
    return {axis.get_title(): axis for axis in save.call_args.args[0].axes}


def test_what_is_drawn():
    axes = drawn(CASES["leff"])
    heights = [bar.get_height() for bar in axes["How often each layer was trained"].patches]
    assert heights == [3, 3, 3, 0]  # of layer 5 the update was refused
    (line,) = axes["BLEU (validation)"].lines
    assert line.get_xydata().tolist() == [[0, 0], [1, 0.5], [2, 0.5], [3, 0.5]]
    (image,) = axes["Importance of each layer (share of the round's sum)"].images
    assert np.allclose(image.get_array().sum(0), 1) and image.get_array().shape == (4, 3)
