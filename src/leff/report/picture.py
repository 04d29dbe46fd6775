"""The picture of a run: does it learn, which layers were trained, and which matter.

draw_run(records, "BLEU", Path("rounds.png"))
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leff.files import write_atomically
from leff.record import RoundRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_run(records: Sequence[RoundRecord], metric: str, path: Path) -> None:
    """Draw loss and metric by round, how often each layer was trained, and its importance.

    `records` are those of ``rounds.jsonl``; round 0 is the model before the first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rounds = [record for record in records if record.round > 0]
    scores = [record.layer_scores for record in rounds if record.layer_scores]
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    loss, measure, trained, importance = figure.subplots(2, 2).ravel()
    _draw_losses(loss, records)
    measured = [(r.round, r.metric) for r in records if r.metric is not None]
    measure.plot(*zip(*measured, strict=True), marker="o", color="tab:green")
    measure.set(title=f"{metric} (validation)", xlabel="round", ylabel=metric)
    _draw_trained(trained, rounds, layers=len(scores[0]) if scores else 0)
    _draw_importance(importance, scores, figure)
    for axis in (loss, measure):
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def save_figure(figure: "Figure", path: Path, dpi: int = 110) -> None:
    """Write a figure as PNG.  A reader sees the old file or the complete new one."""
    payload = io.BytesIO()
    figure.savefig(payload, dpi=dpi, format="png")  # pyright: ignore[reportUnknownMemberType]
    write_atomically(path, payload.getvalue())


def _draw_losses(axis: Any, records: Sequence[RoundRecord]) -> None:
    for key, label in (("loss", "full model, validation"), ("train_loss", "clients, training")):
        points = [(r.round, getattr(r, key)) for r in records if getattr(r, key) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", label=label)
    axis.set(title="Loss", xlabel="round", ylabel="nats per label")
    axis.legend()


def _draw_trained(axis: Any, rounds: Sequence[RoundRecord], layers: int) -> None:
    """Draw a bar for each layer: in how many client rounds it was trained."""
    clients = (client for record in rounds for client in record.clients)
    drawn = [layer for c in clients if c.failure is None for layer in c.layers]
    counts = np.bincount(np.array(drawn, dtype=int), minlength=max(layers, 1))
    axis.bar(range(len(counts)), counts, color="tab:orange")
    axis.set(title="How often each layer was trained", xlabel="layer", ylabel="client rounds")
    axis.xaxis.get_major_locator().set_params(integer=True)


def _draw_importance(axis: Any, scores: Sequence[Sequence[float]], figure: Any) -> None:
    """Draw a map of each layer's share of the importance in every round."""
    axis.set(title="Importance of each layer (share of the round's sum)", xlabel="round")
    if not scores:
        axis.text(0.5, 0.5, "not measured: this run needs none", ha="center", va="center")
        axis.set_axis_off()
        return
    shares = np.array(scores, dtype=float).T  # a score that is null in JSON is NaN here
    shares = shares / np.maximum(shares.sum(0, keepdims=True), np.finfo(float).tiny)
    image = axis.imshow(
        shares,
        aspect="auto",
        origin="lower",
        cmap="viridis",
        extent=(0.5, shares.shape[1] + 0.5, -0.5, shares.shape[0] - 0.5),
    )
    axis.set(ylabel="layer")
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=axis)
