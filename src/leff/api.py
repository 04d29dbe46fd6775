"""Functions for scripts and notebooks; the command line is a thin layer over them.

import leff
run = leff.run(rounds=3)          # or leff.run("experiments/e2e.toml", out="runs/e2e")
run.after["BLEU"], run.folder
model = run.load_model()
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leff.errors import ConfigError, RunError, shown
from leff.files import expanded
from leff.runs.config import full_key, load_config
from leff.runs.options import LARGEST, MOST_BEAMS, RunConfig

if TYPE_CHECKING:
    from leff.record import RoundRecord
    from leff.runs.federation import Progress


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and its `result.json`."""

    folder: Path
    result: Mapping[str, Any]

    @property
    def before(self) -> dict[str, float | None]:
        """Every metric of the model before the first round."""
        return self.result["before"]["metrics"]

    @property
    def after(self) -> dict[str, float | None]:
        """Every metric of the model after the last round."""
        return self.result["after"]["metrics"]

    @property
    def model(self) -> Path:
        """The fine-tuned model's folder; `from_pretrained` reads it."""
        return self.folder / "model"

    @property
    def picture(self) -> Path:
        """The PNG of loss and metric by round, trained layers and importance."""
        return self.folder / "rounds.png"

    def records(self) -> "list[RoundRecord]":
        """Return one record a round; round 0 is the model before the first."""
        from leff.runs.folder import RunFolder

        return RunFolder(self.folder).records()

    def load_model(self) -> Any:
        """Return the fine-tuned Hugging Face model."""
        from leff.runs.trained import read_trained

        return read_trained(self.folder)[0]


def run(
    config: RunConfig | str | Path | None = None,
    *,
    out: str | Path | None = None,
    progress: "Progress | None" = None,
    **options: Any,
) -> Run:
    """Run a federation to its end and return it.

    `config` is a TOML file or a configuration; None is the built-in run.  `options` override a
    file: by dotted key (``**{"training.rounds": 3}``), by bare name if only one section has it
    (``rounds=3``), or by a section's name (``model="gpt2"`` is ``model.name``).  `out` is the
    run's folder, by default a new one in ``runs/``.

    Raises ConfigError, DataError or ModelError before any training, RunError if it fails later.
    """
    from leff.runs.folder import RunFolder

    overrides = {full_key(key, value): value for key, value in options.items()}
    if isinstance(config, RunConfig):
        if overrides:
            raise ConfigError("give options, or a RunConfig that has them, not both")
        checked = config
    else:
        checked = load_config(expanded(config) if config is not None else None, overrides)
    folder = RunFolder.new(expanded(out) if out is not None else new_folder(checked), checked)
    return _finish(folder, checked, progress)


def resume(folder: str | Path, *, progress: "Progress | None" = None) -> Run:
    """Continue an interrupted run to the same result; return at once if it is finished.

    Raises ConfigError if `folder` is no run, CheckpointError if no checkpoint can be read.
    """
    from leff.runs.folder import RunFolder

    opened, config = RunFolder.open(Path(folder))
    result = opened.result()
    if result is None:
        return _finish(opened, config, progress)
    return _drawn(Run(opened.path, result))


def _finish(folder: Any, config: RunConfig, progress: "Progress | None") -> Run:
    from leff.runs.prepare import prepare

    federation = prepare(config, folder)
    with folder.lock():
        return _drawn(Run(folder.path, federation.run(progress)))


def _drawn(run: Run) -> Run:
    """Draw the run's picture if there is none yet."""
    from leff.report.picture import draw_run

    if not run.picture.exists():
        draw_run(run.records(), run.result["metric"], run.picture)
    return run


def evaluate(
    folder: str | Path, *, examples: int | None = None, beams: int | None = None
) -> dict[str, Any]:
    """Return every metric of a run's model, or of its newest checkpoint, on the test split.

    `examples` is the number of test examples, by default all; `beams` is the beam width, by
    default the run's.  The keys are those of `leff.tasks.evaluator.Evaluator.full`.

    Raises ConfigError for a number below 1.
    """
    _check_counts(examples=examples, beams=beams)
    from leff.runs.trained import measure

    return measure(Path(folder), examples, beams)


def generate(
    folder: str | Path, inputs: Sequence[str], *, beams: int = 1, max_new_tokens: int = 64
) -> list[str]:
    """Return a text for every input, from a run's model or any folder with a causal LM.

    A run of a generation task, or its ``model`` folder, gets inputs in the prompt that it was
    trained with.  Any other model gets the inputs as they are.

    Raises ConfigError for a model that classifies, and for a number below 1.
    """
    _check_counts(beams=beams, max_new_tokens=max_new_tokens)
    if isinstance(inputs, str):
        raise ConfigError(f"inputs must be a list of texts, got the text {shown(inputs)}")
    from leff.runs.trained import is_generation_run, read_trained
    from leff.tasks import generation
    from leff.tasks.encode import prompt

    model, tokenizer = read_trained(folder)
    if not model.can_generate():
        raise ConfigError(f"the model of {folder} classifies; it generates no text")
    form = prompt if is_generation_run(Path(folder)) else str
    return generation.generate(
        model, tokenizer, inputs, beams=beams, max_new_tokens=max_new_tokens, form=form
    )


def mmlu(
    model: str | Path,
    *,
    shots: int = 5,
    subjects: Sequence[str] = (),
    examples: int | None = None,
    folder: str | Path | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Return the share of MMLU's test questions that a causal model answers correctly.

    `model` is a run's folder, a model's folder or a hub id; `folder` holds the data.  `subjects`
    are all by default.  `examples` is the most questions of a subject.  The keys are ``accuracy``
    (of all questions), ``subject_mean``, ``subjects`` (accuracy and questions of each),
    ``categories``, ``shots``, ``questions`` and ``notes``.  `progress` is called with the number
    of questions done and of all.

    Raises ConfigError, DataError and ModelError before anything is computed.
    """
    if not 0 <= shots <= 5:
        raise ConfigError(f"shots must be 0 to 5, got {shots}")
    _check_counts(examples=examples, batch_size=batch_size)
    from leff.models.hardware import torch_device
    from leff.runs.trained import read_trained
    from leff.tasks.metrics.mmlu import score
    from leff.tasks.sources.mmlu import load_test

    path = None if folder is None else Path(folder).expanduser()
    questions, examples_of = load_test(path, subjects, examples)
    read, tokenizer = read_trained(model)
    if not read.can_generate():
        raise ConfigError(f"{model} is no causal language model; it gives answers no likelihood")
    scores = score(
        read.to(torch_device("auto")),
        tokenizer,
        questions,
        examples_of,
        count=shots,
        batch_size=batch_size,
        progress=progress,
    )
    return {**asdict(scores), "shots": shots}


def _check_counts(**counts: Any) -> None:
    """Raise ConfigError for a number that is given and is no whole number in its range."""
    for name, value in counts.items():
        most = MOST_BEAMS if name == "beams" else LARGEST
        whole = not isinstance(value, bool) and isinstance(value, Integral)
        if value is not None and not (whole and 1 <= int(value) <= most):
            raise ConfigError(f"{name} must be a whole number from 1 to {most}, got {shown(value)}")


def new_folder(config: RunConfig) -> Path:
    """Return a new folder's path in ``runs/``, named by time, task and method."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{config.data.task}-{config.method.name}"
    tries = (Path("runs") / (name + (f"-{i}" if i else "")) for i in range(1000))
    unused = next((path for path in tries if not path.exists()), None)
    if unused is None:
        raise RunError(f"runs/{name} and its like exist; give --out")
    return unused
