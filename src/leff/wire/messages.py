"""What crosses the network, and nothing else: capacities, jobs, updates and measurements.

All of it is frozen.  Tensors travel as safetensors bytes (`wire.tensors`): nothing is ever
unpickled.  A job holds no tensors, only the content hashes of the parts that a client's model is
built from.  A client that still holds a part does not fetch it again.

    job.block == range(3, 5)      # the client trains layers 3 and 4 of the full model
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bfloat16"]
Optimizer = Literal["adamw", "adamw8bit"]
Upload = Literal["full", "bf16", "int8"]


@dataclass(frozen=True)
class Device:
    """What one device can do; `memory_bytes` is for the peak of a training step."""

    name: str  # of its class
    memory_bytes: int
    flops_per_second: float
    down_bytes_per_second: float
    up_bytes_per_second: float


@dataclass(frozen=True)
class Capacity:
    """What a client reports at the start of a round (PAPER Sec. 3, step 1).

    A device that does not know how many layers it can train says what it has room for: bytes at the
    peak of a training step, and operations of a step; None is no limit.  `device` says how fast it
    is, where that is known.  `failed_bytes` is the least peak that was predicted for a job that its
    memory ran out in.  It trains on `examples`, and measures models on other `validation` examples.
    `labels` are the shares of its labels, as far as the server knows them.  The server sets both.
    """

    client: int
    layers: int  # L_i, how many layers it can fine-tune
    examples: int  # D_i
    memory_bytes: int | None = None
    step_flops: int | None = None
    device: Device | None = None
    failed_bytes: int | None = None
    validation: int = 0
    labels: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """A bundle of tensors by its content: SHA-256 of its safetensors bytes, and their number."""

    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Segment:
    """Consecutive layers of a client's model.

    `sources[j]` is the layer of the full model that layer j stands for, `parts[j]` its tensors,
    named as inside one layer.  `bits` is 32 for plain weights; with fewer, linear weights arrive
    quantised (see `models.quantised`).
    """

    sources: tuple[int, ...]
    parts: tuple[Part, ...]
    trains: bool = False
    bits: int = 32


@dataclass(frozen=True)
class Tuned:
    """What trains in a whole model, where it is not a block of layers and the tail.

    `shapes` has everything that trains, by name:

    - a parameter of the model, under its full name;
    - ``MODULE.lora_A`` (R, in) and ``MODULE.lora_B`` (out, R): the linear module's output gains
      `scale` · B · A · x (LoRA, Hu et al. 2022);
    - ``MODULE.sparse`` (n,): added to the weight at n positions, which `seed` determines.

    Their values are in `part`; where a name is not there, A is drawn with `seed` and the others
    are zero.  The parts in `merged` come first, in that order: whole weights that take the place of
    the model's, under their full names, and A and B whose products are added to the weights.
    """

    shapes: Mapping[str, tuple[int, ...]]
    part: Part | None = None
    scale: float = 1.0
    seed: int = 0
    merged: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Step:
    """How one training step is done.

    A batch is done in `accumulation` parts, which divides its size.  With `checkpointing` layers
    run again in the backward pass.  Neither changes the result, and both save memory.
    """

    batch_size: int = 16
    accumulation: int = 1
    checkpointing: bool = False
    precision: Precision = "float32"  # of the matrix products
    optimizer: Optimizer = "adamw"
    proximal: float = 0.0  # μ of FedProx


@dataclass(frozen=True)
class LocalTraining:
    """Settings of one client's work in one round (PAPER Sec. 3.4).

    `calibrated` classifiers add the log frequencies of the client's own labels to the logits in
    training, if a share of `calibrated_from` or more is not of the most frequent label.
    """

    epochs: float
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    calibrated: bool = False
    calibrated_from: float = 0.0
    step: Step = field(default_factory=Step)


@dataclass(frozen=True)
class Job:
    """What one client does in one round: the model it builds, and how it trains it.

    `config` is the full model's configuration as JSON, `kind` the task's kind, and `pad_id` the
    tokenizer's padding; `shell` holds the embeddings and whatever else is always frozen, `tail`
    what always trains.  With `tuned` no segment and no tail trains, but what it says.
    `predicted_bytes` is the peak of a step; 0 if nobody asked, as no memory is limited.  `upload`
    is the form in which the trained tensors come back (`wire.codec`).  With `private` neither
    losses nor the layers' importance come back.  With a `clip` the client scales what training
    changed down to this L2 norm, and adds Gaussian noise of deviation `noise` · `clip`.  With
    `held` the trained tensors stay with the client, for a secure sum (`privacy.secure_sums`).
    """

    round: int
    client: int
    seed: int
    kind: str
    config: str
    pad_id: int
    shell: Part
    tail: Part
    segments: tuple[Segment, ...]
    training: LocalTraining
    tuned: Tuned | None = None
    predicted_bytes: int = 0
    upload: Upload = "full"
    private: bool = False
    clip: float = 0.0
    noise: float = 0.0
    held: bool = False

    @property
    def block(self) -> tuple[int, ...]:
        """Layers of the full model that the client trains, or trains something in, in order."""
        trained = (s for s in self.segments if s.trains or self.tuned is not None)
        return tuple(source for segment in trained for source in segment.sources)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every part that the client's model is built from."""
        layers = (part for segment in self.segments for part in segment.parts)
        tuned = () if self.tuned is None else (self.tuned.part, *self.tuned.merged)
        return (self.shell, self.tail, *layers, *(part for part in tuned if part is not None))


@dataclass(frozen=True)
class Update:
    """What a client sends back: its trained tensors under the full model's names.

    `payload` is safetensors bytes in the form that the job asked for, or the file that they are in;
    it does not go into JSON.  `failure` says why there is nothing to merge; `payload` is then
    empty.  `losses` has the mean training loss of the first and of the last quarter of the steps.
    `download_bytes` is what the job's parts took that the client did not hold already, and
    `upload_bytes` what came back; the server fills them in.  `examples` is D_i, as in the client's
    report.  `layer_scores` is the importance of each of `layers`, as measured while training;
    `state_bytes` what weights, gradients and optimizer state took on the client, 0 if the job has a
    clip.
    `out_of_memory_bytes` is what it held and asked for when its memory ran out, 0 if it did not.
    `norm` is the L2 norm of what training changed, `norms` that of each of `layers`, and `clipped`
    says that it was scaled down; `asked_steps` is how many steps the job asks for.  The server sets
    these.
    """

    round: int
    client: int
    layers: tuple[int, ...]
    examples: int
    payload: bytes | Path = field(default=b"", repr=False)
    losses: tuple[float, float] | None = None
    steps: int = 0
    train_seconds: float = 0.0
    download_bytes: int = 0
    upload_bytes: int = 0
    layer_scores: tuple[float, ...] = ()
    state_bytes: int = 0
    failure: str | None = None
    out_of_memory_bytes: int = 0
    norm: float | None = None
    norms: tuple[float, ...] = ()
    clipped: bool = False
    asked_steps: int = 0


@dataclass(frozen=True)
class TaskCard:
    """What a device must know of the task to make examples of its own files.

    `labels` are a classifier's classes, in order of their ids.  `prompt` and `special_tokens` are
    as in `tasks.text_form.TextForm`.  `chat` is a `tasks.chat_form.ChatForm` in JSON.  `tokenizer`
    is its files (`tasks.tokenizer_part`).
    """

    kind: str
    labels: tuple[str, ...]
    max_length: int  # tokens of an example, at most
    prompt: str
    special_tokens: bool
    pad_id: int
    tokenizer: Part
    chat: str = ""


SIZES = (
    *(0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
    *(10.0, 12.0, 15.0, 20.0),
)
FEWEST_HELD_OUT = 8  # validation examples that a probe is of; with fewer it is of training examples
OFFSETS = (*(-size for size in reversed(SIZES)), 0.0, *SIZES)  # of a logit, in `Measure.answers`


@dataclass(frozen=True)
class MeasureJob:
    """A model that a client measures on its own validation examples; fields are as in `Job`.

    With `probe` it says instead what the model answers to so many of these examples, drawn with
    `seed` (`Measure.answers`).  A client that holds out fewer than `FEWEST_HELD_OUT` says it of
    those that it trains on: the mean of one or two answers would tell what they are.
    """

    round: int  # 0 is the model before the first round
    client: int
    kind: str
    config: str
    pad_id: int
    shell: Part
    tail: Part
    segments: tuple[Segment, ...]
    batch_size: int = 64
    probe: int = 0
    seed: int = 0

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every part that the model is built from."""
        return (self.shell, self.tail, *(p for segment in self.segments for p in segment.parts))


@dataclass(frozen=True)
class Measure:
    """What a client measured, as sums that can be added up over clients.

    `loss` is a sum over `weight` labels (nats) or scores (squared errors); it is None if the model
    is not finite.  `confusion[y][p]` counts a classifier's examples of label y that it took for p.
    If an example may have several classes, `confusion[k]` has four counts of class k: of examples
    that have it and got it, have it and did not, got it without having it, and neither.
    `moments` of a regression's predictions p and labels y are n, Σp, Σy, Σp², Σy² and Σpy.
    `failure` says why nothing was measured.  The server sets `download_bytes`.

    A probe has none of these sums but the number of its examples, `weight`.  `answers[k][j]` is a
    classifier's mean answer for label k if that label's logit were larger by `OFFSETS[j]`,
    sharpened where the model is unsure (`leff.client.measure.sharpness`).  `labels` are the shares
    of its labels, (K,).  A regression has the mean answer, (1, 1), and the mean label, (1,).  If
    the model is not finite there are no `answers`.
    """

    round: int
    client: int
    examples: int
    loss: float | None = None
    weight: int = 0
    confusion: tuple[tuple[int, ...], ...] = ()
    moments: tuple[float, ...] = ()
    answers: tuple[tuple[float, ...], ...] = ()
    labels: tuple[float, ...] = ()
    seconds: float = 0.0
    download_bytes: int = 0
    failure: str | None = None
