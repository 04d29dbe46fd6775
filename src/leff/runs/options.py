"""Every option of a run, with its default, its range and its source.

    RunConfig().training.rounds      # 8

The defaults are those of the built-in run.  "Sec." cites the paper; an option that the paper
leaves out says where its default comes from.  Config stops here: functions take values.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from leff.errors import ConfigError
from leff.runs.presets import PRESETS
from leff.units import BYTES, FLOPS, parse_amount, parse_seconds
from leff.wire.messages import LocalTraining, Optimizer, Precision, Step

Picked = TypeVar("Picked")
Positive = Annotated[int, Field(ge=1)]
AboveZero = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[str, BeforeValidator(lambda value: str(value))]
CountOrAll = Annotated[Positive | None, BeforeValidator(lambda v: None if v == "all" else v)]


class Section(BaseModel):
    """A group of options: frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _absolute(cls, values: Any) -> Any:
        """Make paths absolute, so that a run can go on from another directory.

        Files are relative to `folder`, where there is one.
        """
        if not isinstance(values, Mapping):
            return values
        found, base = dict(cast("Mapping[str, Any]", values)), Path.cwd()
        for key in ("folder", "train", "validation", "test", "fleet"):
            if isinstance(found.get(key), str | Path):
                found[key] = base / Path(found[key]).expanduser()
                base = found[key] if key == "folder" else base
        return found


def picked(kind: type[Picked], section: Section) -> Picked:
    """Return a dataclass made of those of a section's options that have its fields' names."""
    names = (each.name for each in fields(kind) if hasattr(section, each.name))  # pyright: ignore[reportArgumentType]
    return kind(**{name: getattr(section, name) for name in names})


class ModelConfig(Section):
    """The model to fine-tune."""

    name: str = Field(
        default="sample", description="hub id, folder, or 'sample' (the built-in decoder)"
    )
    end_token: str | None = Field(
        default=None, description="token that ends a text, if not the tokenizer's own"
    )
    train_head: bool = Field(
        default=True,
        description="a head of its own, as Llama's, trains with every block (Table 5); false "
        "freezes it, which saves most of a device's memory",
    )

    @model_validator(mode="before")
    @classmethod
    def _absolute_folder(cls, values: Any) -> Any:
        """Make the name of a folder absolute; any other name is left alone."""
        if not isinstance(values, Mapping):
            return values
        given = dict(cast("Mapping[str, Any]", values))
        name = given.get("name")
        if isinstance(name, str | Path) and name != "sample":
            folder = Path(name).expanduser()
            here = (folder / "config.json").exists()
            given["name"] = str(folder.absolute() if here else name)
        return given


class DataConfig(Section):
    """The clients' task.  Its last split is held by the server to measure the model."""

    task: str = Field(
        default="sample",
        description="sample, e2e, webnlg, mmlu, mmlu_auxiliary, a GLUE task, text or table",
    )
    folder: Path | None = Field(
        default=None, description="where the files are; else LEFF_DATA, else hub"
    )
    train: Path | None = Field(
        default=None, description="training file, for the tasks text and table"
    )
    validation: Path | None = Field(
        default=None, description="validation file; else 10 % is held out"
    )
    test: Path | None = Field(default=None, description="test file")
    kind: Literal["generation", "classification", "regression", "text"] | None = Field(
        default=None, description="for the task table, where its columns leave it open"
    )
    columns: dict[str, str] = Field(
        default={},
        description="for the task table: our column = yours, e.g. {input = 'mr', target = 'ref'}",
    )
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=96, description="tokens of an example at most"
    )
    train_examples: CountOrAll = Field(
        default=1280, description="training examples used, drawn with the seed, or 'all'"
    )


class ProxyConfig(Section):
    """Public data, used without labels, for importance and distillation (Sec. 3.3)."""

    task: str = Field(default="sample", description="as data.task")
    folder: Path | None = Field(default=None, description="as data.folder")
    train: Path | None = Field(default=None, description="as data.train")
    columns: dict[str, str] = Field(default={}, description="as data.columns")
    examples: Positive = Field(default=256, description="texts used, drawn with the seed")
    batch_size: Positive = Field(default=16, description="texts in a batch")
    importance_batches: Positive = Field(default=2, description="batches behind the layer scores")


class ClientsConfig(Section):
    """The fleet."""

    count: Positive = Field(default=8, description="number of clients, N")
    per_round: Fraction = Field(default=1.0, description="share of the clients in each round")
    layers: list[int] = Field(
        default=[1, 1, 2, 2, 3, 3, 4, 6],
        min_length=1,
        description="capacities L_i in layers, repeated over the clients",
    )
    memory: list[Amount] = Field(
        default=[],
        description="room for a training step's peak, such as '64MB', repeated; the step is done "
        "in parts or checkpointed where it has to be; context auto chooses by it, flora and "
        "flexlora their ranks; others refuse what does not fit",
    )
    flops: list[Amount] = Field(
        default=[], description="for context auto: operations of a step, such as '50G', repeated"
    )
    fleet: Path | None = Field(
        default=None,
        description="TOML file of device classes, in place of layers, memory and flops; count is "
        "that of its devices",
    )
    deadline: str = Field(
        default="",
        description="most time that a client's round takes on the fleet's virtual clock, such as "
        "'30s'; steps, block and context go by it",
    )
    min_steps_share: Fraction = Field(
        default=0.25,
        description="with a deadline: share of its local steps that a client does at least, or it "
        "sits the round out; our choice, not measured",
    )
    ranks: list[Positive] = Field(
        default=[],
        description="for flora and flexlora: ranks R_i, repeated over the clients; without them "
        "method.rank, or what clients.memory has room for",
    )
    partition: Literal["iid", "dirichlet", "column"] = Field(
        default="dirichlet", description="how the examples are split (Sec. 5: Dirichlet)"
    )
    by: str = Field(
        default="", description="column to split by; '' is the task's first attribute; not for iid"
    )
    alpha: AboveZero = Field(default=0.5, description="Dirichlet concentration; small is skewed")
    min_examples: Positive = Field(default=16, description="every client gets this many at least")


class MethodConfig(Section):
    """How the federation fine-tunes."""

    name: str = Field(
        default="leff",
        description="leff, fedavg, fedbitfit, fedlora, slora, flora or flexlora",
    )
    sampling: Literal["importance", "round_robin", "random", "fixed"] = Field(
        default="importance",
        description="how a client's block is drawn (Sec. 3.2); fixed: each client keeps one block",
    )
    scale: Literal["literal", "standardised"] = Field(
        default="standardised",
        description="literal: softmax of the raw importances (Sec. 3.2), which is uniform",
    )
    temperature: AboveZero = Field(default=1.0, description="of the softmax; large is uniform")
    source: Literal["proxy", "clients"] = Field(
        default="proxy", description="who measures the importance; the paper leaves it open"
    )
    exploration: Share = Field(
        default=0.1, description="share of uniform sampling in it, so that no layer starves"
    )
    stratified: bool = Field(
        default=True, description="clients' draws spread over the blocks, not independent ones"
    )
    relaxation: Annotated[float, Field(ge=0)] = Field(
        default=2.0,
        description="a layer moves by so many times the share of data that trained it, the whole "
        "way at most; 0: always the whole way (Sec. 3.5)",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="of the server, over rounds (FedAvgM)"
    )
    rank: Positive = Field(default=8, description="R of adapters (Table 5: 8)")
    lora_alpha: AboveZero = Field(
        default=16.0, description="adapters are scaled by lora_alpha / R; not in the paper"
    )
    base_bits: Literal[32, 16, 8, 4] = Field(
        default=32,
        description="linear weights that adapters train beside, fedlora and flexlora: 16 bfloat16, "
        "8 by row, 4 NF4; with fewer than 32 word embeddings are float16",
    )
    sparse_share: Fraction = Field(
        default=0.25,
        description="share of the rounds that are slora's first stage; not in the paper",
    )


class ContextConfig(Section):
    """What stands in for the layers that a client does not train (Sec. 3.3)."""

    name: Literal["distil", "drop", "quantise", "auto"] = Field(
        default="quantise",
        description="the paper: distil; auto: by clients.memory and clients.flops",
    )
    suffix: Literal["", "distil", "drop", "quantise"] = Field(
        default="", description="for the layers after the block, if not as before it"
    )
    rate: Fraction = Field(default=0.5, description="r: distil and drop keep ⌈n·r⌉ of n layers")
    bits: Literal[32, 16, 8, 4] = Field(
        default=8,
        description="linear weights: 16 bfloat16, 8 by row, 4 NF4, 32 as they are (the paper)",
    )
    embedding_bits: Literal[32, 16] = Field(
        default=16, description="frozen word embeddings on the client; 32: as they are (the paper)"
    )
    steps: Annotated[int, Field(ge=0)] = Field(
        default=40, description="distillation steps a round; not in the paper"
    )
    learning_rate: AboveZero = Field(
        default=1e-3, description="distillation; falls in the second half; not in the paper"
    )
    attention_weight: Share = Field(
        default=0.1, description="α of (1-α)·MSE + α·KL (Sec. 3.3); value not in the paper"
    )
    whole: bool = Field(
        default=False, description="distil a span's layers jointly (the paper), not one by one"
    )
    target_error: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="distil until this relative error only; 0: all steps"
    )
    seconds: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="most time that distilling takes in a round; 0: no limit"
    )


class TrainingConfig(Section):
    """Rounds, and the work of a client in one (Sec. 3.4: AdamW, lr 1e-5, one epoch)."""

    rounds: Positive = Field(default=8, description="rounds; the paper: 20")
    epochs: AboveZero = Field(default=1.0, description="local epochs a round (Sec. 3.4)")
    batch_size: Positive = Field(default=16, description="not in the paper")
    learning_rate: AboveZero = Field(
        default=4e-3, description="AdamW; the paper's 1e-5 is for far larger models"
    )
    schedule: Literal["constant", "linear"] = Field(
        default="linear",
        description="linear: the rate falls over the rounds, to a tenth in the last",
    )
    calibrated: bool = Field(
        default=True,
        description="classifiers learn with the log frequencies of the client's own labels added "
        "to the logits (logit adjustment)",
    )
    proximal: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="μ of FedProx: pulls weights back to where the round started"
    )
    precision: Precision = Field(default="float32", description="of a client's matrix products")
    accumulation: Positive = Field(
        default=1,
        description="parts in which a step's batch is done, one after the other, for less memory; "
        "must divide training.batch_size; more where a client's memory asks for it",
    )
    checkpointing: bool = Field(
        default=False,
        description="run the trained layers and those after them again in the backward pass, for "
        "less memory; same results",
    )
    optimizer: Optimizer = Field(
        default="adamw",
        description="adamw8bit: its state in 8 bits for tensors of 4096 values or more, a quarter "
        "of the memory (bitsandbytes; slow on a CPU)",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.01, description="AdamW's default")
    max_grad_norm: AboveZero = Field(default=1.0, description="gradients are clipped to this norm")

    @property
    def step(self) -> Step:
        """How a step is done."""
        return picked(Step, self)

    def local(self, index: int) -> LocalTraining:
        """Return the settings of a client's work in a round, by its index from 0."""
        rate = self.learning_rate
        if self.schedule == "linear":  # from the full rate to a tenth of it in the last round
            rate *= 1 - 0.9 * index / max(1, self.rounds - 1)
        return LocalTraining(
            self.epochs, rate, self.weight_decay, self.max_grad_norm, self.calibrated, self.step
        )


class EvaluationConfig(Section):
    """How the server measures the model."""

    every: Positive = Field(
        default=1, description="rounds between measurements; the last is measured"
    )
    examples: Positive = Field(default=64, description="validation examples measured in each round")
    final_examples: CountOrAll = Field(
        default=200, description="test examples measured before and after, or 'all'"
    )
    batch_size: Positive = Field(default=64, description="examples in a batch")
    gap_clients: Annotated[int, Field(ge=0)] = Field(
        default=2,
        description="clients a round whose block is also measured in the full model (plug-in gap)",
    )
    gap_examples: Positive = Field(
        default=64, description="validation examples that it is measured on"
    )
    gradient_error: bool = Field(
        default=False, description="measure Δ² of Assumption 4 for them too"
    )
    beams: Positive = Field(
        default=1, description="beam search width of the final texts; 1 is greedy"
    )
    max_new_tokens: Positive = Field(default=64, description="longest generated text, tokens")


class EngineConfig(Section):
    """Where the clients are."""

    name: Literal["local"] = Field(default="local", description="local: in this process")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    threads: Positive = Field(
        default=1, description="torch threads of each process; changes results in the last bits"
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        default=0, description="clients at a time; 0: cores / threads, 4 at most; same results"
    )
    checkpoints: Annotated[int, Field(ge=2)] = Field(default=2, description="checkpoints kept")


class RunConfig(Section):
    """A whole run."""

    preset: Literal["default", "paper"] = Field(
        default="default",
        description="default: the best we know; paper: its literal procedure, for the options "
        "that are not set",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="every draw derives from it"
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    proxy: ProxyConfig = ProxyConfig()
    clients: ClientsConfig = ClientsConfig()
    method: MethodConfig = MethodConfig()
    context: ContextConfig = ContextConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        """Put the preset's values below those that are given."""
        if not isinstance(values, Mapping):
            return values
        found = dict(cast("Mapping[str, Any]", values))
        for name, options in PRESETS.get(found.get("preset", "default"), {}).items():
            given: Any = found.get(name, {})
            if isinstance(given, Mapping):
                found[name] = {**options, **cast("Mapping[str, Any]", given)}
        return found

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if 0 < self.method.relaxation < 1:
            raise ValueError(
                f"method.relaxation must be 0 or at least 1, got {self.method.relaxation}; below "
                "1 the model would lag behind what all clients agree on"
            )
        self._check_budgets()
        self._check_fleet()
        self._check_accumulation()
        if min(self.clients.layers) < 1:
            raise ValueError(
                f"clients.layers must be at least 1 each, got {min(self.clients.layers)}; "
                "a client that can train no layer cannot take part"
            )
        return self

    def _check_accumulation(self) -> None:
        parts, size = self.training.accumulation, self.training.batch_size
        if size % parts:
            divisors = [str(number) for number in range(1, size + 1) if size % number == 0]
            raise ValueError(
                f"training.accumulation = {parts} does not divide training.batch_size = {size}; "
                f"these do: {', '.join(divisors)}"
            )

    def _check_fleet(self) -> None:
        clients, default = self.clients, ClientsConfig()
        if clients.fleet:
            for key in ("layers", "memory", "flops"):
                if getattr(clients, key) != getattr(default, key):
                    raise ValueError(
                        f"clients.fleet and clients.{key} = {getattr(clients, key)} both say what "
                        "devices can do; remove one"
                    )
        if clients.deadline and not clients.fleet:
            raise ValueError(
                f"clients.deadline = {clients.deadline!r} needs clients.fleet, a file that says "
                "how fast the devices are"
            )
        if clients.deadline:
            try:
                parse_seconds(clients.deadline)
            except ConfigError as error:
                raise ValueError(f"clients.deadline: {error}") from None

    def _check_budgets(self) -> None:
        clients, auto = self.clients, self.context.name == "auto"
        for key, amounts, units in (
            ("clients.memory", clients.memory, BYTES),
            ("clients.flops", clients.flops, FLOPS),
        ):
            for amount in amounts:
                try:
                    parse_amount(amount, units)
                except ConfigError as error:
                    raise ValueError(f"{key}: {error}") from None
        if auto and not (clients.memory or clients.flops or clients.fleet):
            raise ValueError(
                "context.name = 'auto' needs clients.memory or clients.flops, such as ['64MB'], "
                "or clients.fleet"
            )
        if auto and self.context.suffix:
            raise ValueError(
                f"context.suffix = {self.context.suffix!r} cannot be combined with context auto, "
                "which chooses both sides; remove one"
            )
