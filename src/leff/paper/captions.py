"""The lines below a table or figure: how it was made, what is missing, notes on metrics.

    caption(study)
    missing_lines(study.values()), note_lines(study.values())

Numbers of examples are taken from the options of the table's own runs, so a caption states what
was run.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from leff.paper.study import Study
from leff.paper.values import Value
from leff.runs.options import CountOrAll


def caption(study: Study) -> str:
    """Return the experiment's caption, with the size's notes on its tasks."""
    experiment = study.experiment
    if experiment.kind == "counts":
        return experiment.caption
    size, extent = study.common.size(study.selection.size), experiment.size(study.selection.size)
    groups = dict.fromkeys(study.common.tasks[cell.task].group for cell in study.cells if cell.runs)
    parts = [experiment.caption, size.note]
    for group in groups:
        parts += [size.notes.get(group, ""), _examples(study, group)]
    model = f"With {study.selection.model} instead." if study.selection.model else ""
    return " ".join(filter(None, [*parts, _points_left_out(study), extent.note, model]))


def _examples(study: Study, group: str) -> str:
    """Return the sentence on a group's training and evaluation examples."""
    own = [
        cell for cell in study.cells if cell.runs and study.common.tasks[cell.task].group == group
    ]
    configs = {cell.task: cell.runs[0].config for cell in own}
    learnt = _by_task({task: config.data.train_examples for task, config in configs.items()})
    learnt_from = f"{learnt} training examples" if learnt else "All training examples"
    if study.experiment.kind == "rounds":
        measured = _by_task({task: c.evaluation.examples for task, c in configs.items()})
        return f"{learnt_from}; loss on {measured or 'all'} of the validation examples."
    final = _by_task({task: c.evaluation.final_examples for task, c in configs.items()})
    most = f"at most {final}" if final else "all"
    return f"{learnt_from}; measured on {most} of {study.common.groups[group].measured_on}."


def _by_task(counts: Mapping[str, CountOrAll]) -> str:
    """Return ``2,000``; ``CoLA 4,000, RTE 500`` if tasks differ; "" if all use all examples."""
    texts = {task: "all" if count is None else f"{count:,}" for task, count in counts.items()}
    if set(texts.values()) == {"all"}:
        return ""
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{task} {text}" for task, text in texts.items())


def _points_left_out(study: Study) -> str:
    experiment, size = study.experiment, study.selection.size
    kept = experiment.size(size).points or experiment.points
    absent = [point for point in experiment.points if point not in kept]
    return f"{experiment.axis} = {', '.join(absent)}: not in {size}." if absent else ""


def averages_line(values: Sequence[Value]) -> str:
    """Return the sentence on averages; "" unless the size leaves columns out."""
    averaged = [value for value in values if value.metric == "mean"]
    if not averaged or not any(value.left_out for value in values):
        return ""
    papers = ", the paper's too," if any(value.paper is not None for value in averaged) else ""
    return f"Averages{papers} are over the columns that this size has."


def note_lines(values: Sequence[Value]) -> list[str]:
    """Return the runs' notes on metrics; of notes that differ in numbers only, the first."""
    alike: dict[tuple[str, str], list[str]] = {}
    for value in values:
        for note in value.notes:
            alike.setdefault((value.column, re.sub(r"\d+(\.\d+)?", "#", note)), []).append(note)
    return [
        f"{column}: {notes[0]}" + (" (similar in other runs)" if len(set(notes)) > 1 else "")
        for (column, _), notes in alike.items()
    ]


def missing_lines(values: Sequence[Value]) -> list[str]:
    """Return a line for every reason why values are missing, with the cells concerned."""
    cells = [value for value in values if value.metric != "mean"]
    reasons = dict.fromkeys(value.missing for value in cells if value.missing)
    return [f"{'; '.join(_where(reason, cells))}: {reason}" for reason in reasons]


def _where(reason: str, values: Sequence[Value]) -> list[str]:
    """Return the labels of rows, columns, cells and single values that lack values for `reason`."""
    labels: list[str] = []
    for name in (attrgetter("row"), attrgetter("column"), attrgetter("cell"), _single):
        named = _all_with(reason, values, name)
        values = [value for value in values if name(value) not in named]
        labels += named
    return labels


def _single(value: Value) -> str:
    return " ".join(filter(None, (value.row, value.point, value.column)))


def _all_with(reason: str, values: Sequence[Value], name: Callable[[Value], str]) -> list[str]:
    """Return the names whose values are all missing for this reason."""
    others = {name(value) for value in values if value.missing != reason}
    return [label for label in dict.fromkeys(map(name, values)) if label not in others]
