"""Functions for scripts and notebooks; the command line is a thin layer over them.

import leff
run = leff.run(rounds=3)          # or leff.run("e2e.toml", out="runs/e2e")
run.after["BLEU"], run.folder
model = run.load_model()
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from leff.errors import ConfigError, RunError, shown
from leff.files import expanded
from leff.runs.config import full_key, load_config
from leff.runs.option_types import LARGEST
from leff.runs.options import MOST_BEAMS, RunConfig

if TYPE_CHECKING:
    from leff.record import RoundRecord
    from leff.runs.federation import Progress
    from leff.runs.folder import RunFolder

log = logging.getLogger("leff")


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
    track: str | None = None,
    **options: Any,
) -> Run:
    """Run a federation to its end and return it.

    `config` is a TOML file or a configuration; None is the built-in run.  `options` override a
    file: by dotted key (``**{"training.rounds": 3}``), by bare name if only one section has it
    (``rounds=3``), or by a section's name (``model="gpt2"`` is ``model.name``).  `out` is the
    run's folder, by default a new one in ``runs/``.  `track` sends every round to `tensorboard`,
    `trackio`, `wandb` or `mlflow` too.

    Raises ConfigError, DataError or ModelError before any training, RunError if it fails later.
    """
    from leff.runs.folder import RunFolder

    _check_tracker(track)
    overrides = {full_key(key, value): value for key, value in options.items()}
    if isinstance(config, RunConfig):
        if overrides:
            raise ConfigError("give options, or a RunConfig that has them, not both")
        checked = config
    elif not isinstance(config, str | Path | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"config must be a file or a RunConfig, got {shown(config)}")
    else:
        checked = load_config(expanded(config) if config is not None else None, overrides)
    folder = RunFolder.new(expanded(out) if out is not None else new_folder(checked), checked)
    with folder.lock(made=out is None):
        RunFolder.new(folder.path, checked)  # another process may have begun one meanwhile
        return _finish(folder, checked, progress, track)


def resume(
    folder: str | Path, *, progress: "Progress | None" = None, track: str | None = None
) -> Run:
    """Continue an interrupted run to the same result; return at once if it is finished.

    A finished run is only read, and checked.  `track` is as in `run`; the tracker gets the rounds
    that it has not got yet, also those of a finished run.  Raises ConfigError if `folder` is no run
    or its configuration was edited, CheckpointError if it is damaged so that it cannot go on.
    """
    from leff.runs.folder import RunFolder

    _check_tracker(track)
    opened, config = RunFolder.open(Path(folder))
    if opened.result() is None:
        with opened.lock():
            opened, config = RunFolder.open(opened.path)
            if opened.result() is None:  # another process may have finished it meanwhile
                return _finish(opened, config, progress, track)
    opened.check_model()
    if track is not None:
        from leff.report.tracking import send_finished

        send_finished(track, opened, config)
    return _drawn(opened, opened.result() or {})


def _check_tracker(name: str | None) -> None:
    if name is not None:
        from leff.report.trackers import check_tracker

        check_tracker(name)


def _finish(
    folder: "RunFolder", config: RunConfig, progress: "Progress | None", track: str | None
) -> Run:
    from leff.runs.prepare import prepare

    federation = prepare(config, folder)
    if track is None:
        return _drawn(folder, federation.run(progress))
    from leff.report.tracking import Together, Tracking

    with Tracking(track, folder) as tracking:
        both = Together([tracking] if progress is None else [progress, tracking])
        result = federation.run(both)
        tracking.finished(result)
    return _drawn(folder, result)


def _drawn(folder: "RunFolder", result: Mapping[str, Any]) -> Run:
    """Return a finished run; draw its picture if there is none yet.

    Nothing relies on the picture, so a disk that cannot be written costs a warning.
    """
    from leff.report.picture import draw_run

    run, records = Run(folder.path, result), folder.records()
    if not run.picture.exists():
        try:
            draw_run(records, result["metric"], run.picture)
        except OSError as error:
            log.warning("the picture %s was not written (%s)", run.picture, error)
    return run


def compare(folders: Sequence[str | Path]) -> dict[str, list[Any]]:
    """Return runs beside each other, a value for each: the options that differ, and the figures.

    The figures are ``rounds``, ``loss``, ``metric`` and ``train_loss`` of the last round, every
    metric of the test split (``test BLEU``), ``download_bytes`` and ``upload_bytes`` of all rounds,
    and ``seconds``.  None is what a run has not.

    Raises ConfigError for fewer than two runs and for what is no run, CheckpointError for a damaged
    one.
    """
    from leff.runs.compare import compare as beside

    return beside([expanded(folder) for folder in folders])


def plan(
    model: str | Path,
    *,
    method: str = "leff",
    layers: int | None = None,
    rank: int | None = None,
    base_bits: int | None = None,
    memory: str | None = None,
    flops: str | None = None,
    fleet: str | Path | None = None,
    device: str | Path | None = None,
    device_class: str | None = None,
    time: str | None = None,
    speed: str | None = None,
    down: str | None = None,
    up: str | None = None,
    examples: int | None = None,
    labelled: float = 1.0,
    **options: Any,
) -> dict[str, Any]:
    """Return what a method takes on a client, or what fits a device, without loading weights.

    `model` is a hub id, a folder, a config.json or a known name.  `options` are those of `run`, for
    what a step is (``max_length=64``) and for the context (``context="drop"``).

    - With `fleet`, a fleet file: a plan for each of its ``classes``, by name.
    - With `device`, a class's file, or with `memory`, `speed`, `down` and `up`: that for one class.
      `time` limits a client's round ("30s"), `examples` are a client's.
    - With `memory` ("2GB") or `flops` ("50G") alone: the layers and context that fit a step.
    - With none of these: parameters, bytes and operations of `method` with so many `layers`.

    In the first two, and unless `method`, a number or a context is given, LEFF's layers and context
    are chosen, by errors that were measured on other models.  ``options`` of a plan are those of
    such a run.  `labelled` is the share of tokens that have a label.

    Raises ConfigError for what cannot be combined, and if nothing fits; ModelError for the model.
    """
    from leff.capacity.fleet_file import asked_classes
    from leff.runs import plans
    from leff.units import parse_seconds

    overrides = {full_key(key, value): value for key, value in options.items()}
    given = [key for key in overrides if key.partition(".")[0] == "context"]
    numbers = {"layers": layers, "rank": rank, "base_bits": base_bits}
    counts = {key: value for key, value in numbers.items() if value is not None}
    if memory is None and flops is None:
        plans.check_used(method, [*given, *counts])
    config, model = load_config(None, overrides), str(model)
    if not 0 < labelled <= 1:
        raise ConfigError(f"--labelled must be above 0 and at most 1, got {labelled}")
    values = {"memory": memory, "speed": speed, "down": down, "up": up}
    timed = [fleet, device, device_class, time, speed, down, up, examples]
    if any(each is not None for each in timed):
        if flops is not None:
            raise ConfigError("--flops says what --time and --speed say; leave it out")
        choose = method == "leff" and not given and not counts
        asked = None if choose else plans.Asked(method, counts)
        limit = plans.round_time(config, None if time is None else parse_seconds(time), examples)
        file, own = (None if each is None else expanded(each) for each in (fleet, device))
        classes = asked_classes(file, own, device_class, values)
        result = plans.fleet_plan(model, config, classes, limit, asked, labelled)
        if fleet is None:
            ((name, only),) = result.pop("classes").items()
            result |= {"class": name, **only}
        return result
    if memory is None and flops is None:
        return plans.predicted(model, method, config, labelled, **counts)
    if method != "leff" or given or counts:
        raise ConfigError(
            "--memory and --flops choose layers and context of leff; leave out --method, --layers, "
            "--context, --rate, --bits, --rank and --base-bits"
        )
    return plans.choose_plan(model, config, memory, flops, labelled)


def evaluate(
    folder: str | Path,
    *,
    examples: int | None = None,
    beams: int | None = None,
    data: str | Path | None = None,
) -> dict[str, Any]:
    """Return every metric of a run's model, or of its newest checkpoint, on the test split.

    `data` is a table of your own to measure on instead, with the columns that the run trained on.

    `examples` is the number of test examples, by default all; `beams` is the beam width, by
    default the run's.  The keys are those of `leff.tasks.evaluator.Evaluator.full`.

    Raises ConfigError for a number below 1.
    """
    _check_counts(examples=examples, beams=beams)
    from leff.runs.trained import measure

    return measure(Path(folder), examples, beams, None if data is None else expanded(data))


def predict(
    folder: str | Path, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return what a classifier says of every text, or of every text and its pair.

    `folder` is a run's, or any folder with a classifier.  Each answer has ``label`` and
    ``probability``, or ``score`` for a regression.

    Raises ConfigError for a model that generates text, and if there is not one pair for each text.
    """
    from leff.runs.predict import predict as answers

    texts = _texts("texts", texts)
    pairs = None if pairs is None else _texts("pairs", pairs)
    if pairs is not None and len(pairs) != len(texts):
        raise ConfigError(f"there must be a pair for each text, got {len(pairs)} and {len(texts)}")
    return answers(folder, {"text": texts} | ({} if pairs is None else {"text_pair": pairs}))


def generate(
    folder: str | Path,
    inputs: Sequence[str],
    *,
    beams: int = 1,
    max_new_tokens: int = 64,
    prompt: str | None = None,
) -> list[str]:
    """Return a text for every input, from a run's model or any folder with a causal LM.

    Inputs are put into `prompt`, in place of ``{input}``.  Without it they are put into the prompt
    of the model's chat template, which for a run's model is the one that it was trained with.
    Without a template they stay as they are.

    Raises ConfigError for a model that classifies, for a prompt without ``{input}``, and for a
    number below 1.
    """
    _check_counts(beams=beams, max_new_tokens=max_new_tokens)
    inputs = _texts("inputs", inputs)
    from leff.runs.trained import read_trained, trained_form
    from leff.tasks import generation
    from leff.tasks.text_form import TextForm

    given = None if prompt is None else TextForm(prompt)

    model, tokenizer = read_trained(folder)
    if not model.can_generate():
        raise ConfigError(f"the model of {folder} classifies; it generates no text")
    form = given or trained_form(folder, tokenizer)
    return generation.generate(
        model, tokenizer, inputs, beams=beams, max_new_tokens=max_new_tokens, form=form
    )


def export(
    folder: str | Path,
    *,
    merged: str | Path | None = None,
    adapter: str | Path | None = None,
    difference: str | Path | None = None,
    gguf: str | Path | None = None,
    hub: str | None = None,
    dtype: str = "float32",
    private: bool = True,
) -> dict[str, Any]:
    """Write a finished run's model in another form, and return what was written.

    Give one of: `merged`, a folder for the whole model; `adapter`, a folder that peft loads (for
    runs of adapters); `difference`, a file for what changed, in the safetensors format; `gguf`, a
    file for llama.cpp; `hub`, a repository to upload the whole model to.  `dtype` is that of the
    weights: float32, float16, bfloat16, and q8_0 for `gguf`.

    The keys are ``form``, ``place`` and ``bytes``, for an adapter also ``rank``, for a difference
    ``tensors``.

    Raises ConfigError before anything is loaded: for no form or several, for a place that is taken,
    for a dtype that the form has not, and for a run that is not finished.  Raises ConfigError for a
    model that the form cannot hold, RunError if what was written is not the run's model.
    """
    from leff.exports.forms import write

    given = {
        "merged": merged,
        "adapter": adapter,
        "difference": difference,
        "gguf": gguf,
        "hub": hub,
    }
    return write(expanded(folder), given, dtype, private)


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


def _texts(name: str, values: Iterable[str]) -> list[str]:
    """Return texts as a list.  Raises ConfigError for a single text, and for what is no text."""
    if isinstance(values, str):
        raise ConfigError(f"{name} must be a list of texts, got the text {shown(values)}")
    texts = list(values)
    for value in cast("list[object]", texts):
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be texts, got {shown(value)}")
    return texts


def _check_counts(**counts: Any) -> None:
    """Raise ConfigError for a number that is given and is no whole number in its range."""
    for name, value in counts.items():
        most = MOST_BEAMS if name == "beams" else LARGEST
        whole = not isinstance(value, bool) and isinstance(value, Integral)
        if value is not None and not (whole and 1 <= int(value) <= most):
            raise ConfigError(f"{name} must be a whole number from 1 to {most}, got {shown(value)}")


def new_folder(config: RunConfig) -> Path:
    """Make and return a new folder in ``runs/``, named by time, task and method."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{config.data.task}-{config.method.name}"
    for path in (Path("runs") / (name + (f"-{i}" if i else "")) for i in range(1000)):
        with suppress(FileExistsError):  # another run may start in the same second
            path.mkdir(parents=True)
            return path
    raise RunError(f"runs/{name} and its like exist; give --out")
