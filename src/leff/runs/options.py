"""Every option of a run, with its default, its range and its source.

    RunConfig().training.rounds      # 8

The defaults are those of the built-in run.  "Sec." cites the paper.  An option that the paper
leaves out says where its default comes from.  Only this package reads options.

An option has a lower and an upper bound.  Within them a run can only fail at what the data, the
model or the machine lacks, and that is checked where it is known.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from leff.errors import ConfigError
from leff.files import expanded
from leff.runs.option_checks import check_together
from leff.runs.option_types import (
    AboveZero,
    Amount,
    BatchSize,
    CountOrAll,
    Epochs,
    Files,
    Fraction,
    Positive,
    Rate,
    Seconds,
    Section,
    Share,
    check_path,
    picked,
)
from leff.runs.presets import PRESETS, PRIVATE, PUBLISHED, SUMS_ALONE
from leff.tasks.encode import Kind
from leff.tasks.load import OWN
from leff.tasks.text_form import TextForm
from leff.wire.messages import LocalTraining, Optimizer, Precision, Step, Upload

MOST_BEAMS = 128  # each has the memory of a whole text


class ModelConfig(Section):
    """The model to fine-tune."""

    name: Annotated[str, Field(min_length=1)] = Field(
        default="sample",
        description="hub id, folder, GGUF file, a run's folder, or 'sample' (the built-in decoder)",
    )
    end_token: str | None = Field(
        default=None, description="token that ends a text; without it, the tokenizer's own"
    )
    train_head: bool = Field(
        default=True,
        description="an untied head, as Llama's, trains with every block (Table 5); false freezes "
        "it, which saves most of a device's memory",
    )

    @model_validator(mode="before")
    @classmethod
    def _absolute_folder(cls, values: Any) -> Any:
        """Make the name of a folder absolute; leave any other name as it is."""
        if not isinstance(values, Mapping):
            return values
        given = dict(cast("Mapping[str, Any]", values))
        name = given.get("name")
        if isinstance(name, str | Path) and name != "sample":
            folder = expanded(name)
            with suppress(OSError):  # `_name` says what is wrong with it
                files = (folder / "config.json", folder / "config.toml")
                known = any(file.exists() for file in files) or folder.suffix == ".gguf"
                name = folder.absolute() if known else name
            given["name"] = str(name)
        return given

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        """Refuse a name that cannot be looked up among the folders."""
        check_path(Path(name))
        return name


class DataConfig(Section):
    """The clients' task.  The server keeps its validation and test split to measure the model."""

    task: str = Field(
        default="sample",
        description="sample, e2e, webnlg, mmlu, mmlu_auxiliary, a GLUE task, text or table",
    )
    folder: Path | None = Field(
        default=None, description="folder of data; else LEFF_DATA, else hub"
    )
    train: Files = Field(
        default=None,
        description="training file, for tasks text and table; of several (a list, or a pattern "
        "such as 'sites/*.csv') each is a client",
    )
    validation: Path | None = Field(
        default=None, description="validation file; else 10 % of the texts are held out"
    )
    test: Path | None = Field(default=None, description="test file")
    kind: Kind | None = Field(
        default=None, description="for task table, if its columns fit several kinds"
    )
    columns: dict[str, str] = Field(
        default={},
        description="for task table: our column = yours, such as {input = 'mr', target = 'ref'}",
    )
    max_length: Annotated[int, Field(ge=8, le=2**17)] = Field(
        default=96, description="most tokens of an example"
    )
    prompt: str | None = Field(
        default=None,
        description="for generation: what comes before a target, with {input} in it; without it "
        "the task's own, '{input} =' for a table",
    )
    chat_template: Literal["model", "plain"] = Field(
        default="model",
        description="for conversations: the model's own chat template, or a plain one; a model "
        "without one gets the plain one",
    )
    group: Literal["", "input"] = Field(
        default="",
        description="for generation of task table: input: validation and test rows with the same "
        "input are one example with several references",
    )
    special_tokens: bool = Field(
        default=False,
        description="true: special tokens written in texts, such as </s>, are read as tokens; "
        "false: they are plain text",
    )
    labels: list[str] = Field(
        default=[],
        description="for a classifier of task table: its classes, in order; without them, those of "
        "the train file. If only devices have the data, data.kind and this say what it is",
    )
    train_examples: CountOrAll = Field(
        default=1280,
        description="training examples used, drawn with the seed; or 'all', which is the default "
        "for your own data (tasks text and table)",
    )

    @model_validator(mode="before")
    @classmethod
    def _all_of_own_data(cls, values: Any) -> Any:
        """Take all rows of the user's own data, unless a number is given."""
        if not isinstance(values, Mapping):
            return values
        given = cast("Mapping[str, Any]", values)
        return {"train_examples": "all", **given} if given.get("task") in OWN else given

    @field_validator("prompt")
    @classmethod
    def _has_input(cls, prompt: str | None) -> str | None:
        try:
            return prompt if prompt is None else TextForm(prompt).prompt
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("a prompt ")) from None


class ProxyConfig(Section):
    """Public data without labels, for layer importance and distillation (Sec. 3.3)."""

    task: str = Field(default="sample", description="as data.task")
    folder: Path | None = Field(default=None, description="as data.folder")
    train: Files = Field(default=None, description="as data.train")
    columns: dict[str, str] = Field(default={}, description="as data.columns")
    examples: Annotated[int, Field(ge=1, le=100_000)] = (
        Field(  # all are read before the first round
            default=256, description="texts used, drawn with the seed"
        )
    )
    batch_size: BatchSize = Field(default=16, description="texts in a batch")
    importance_batches: Positive = Field(default=2, description="batches that layers are scored on")


class ClientsConfig(Section):
    """The clients: what they can do, and how the examples are divided over them."""

    count: Annotated[int, Field(ge=1, le=10**6)] = Field(
        default=8, description="number of clients, N"
    )
    per_round: Fraction = Field(default=1.0, description="share of clients in a round")
    layers: list[int] = Field(
        default=[],
        description="layers L_i that each client can train, repeated over the clients; without it "
        "a device trains as many as it has room for, and clients on this machine 1, 1, 2, 2, 3, 3, "
        "4, 6",
    )
    memory: list[Amount] = Field(
        default=[],
        description="limit of a training step's peak, such as '64MB', repeated; if needed, steps "
        "are split or checkpointed; context auto, flora and flexlora choose what fits; otherwise "
        "a client that does not fit is an error",
    )
    flops: list[Amount] = Field(
        default=[],
        description="for context auto: most operations of a step, such as '50G', repeated",
    )
    fleet: Path | None = Field(
        default=None,
        description="TOML file of device classes; it replaces layers, memory and flops, and "
        "count is its number of devices",
    )
    deadline: str = Field(
        default="",
        description="time limit of a client's round on the fleet's virtual clock, such as '30s'; "
        "number of steps, block and context are chosen to meet it",
    )
    min_steps_share: Fraction = Field(
        default=0.25,
        description="with a deadline: a client that cannot do this share of its local steps sits "
        "the round out; our choice, not measured",
    )
    ranks: list[Positive] = Field(
        default=[],
        description="for flora and flexlora: ranks R_i, repeated over the clients; without them "
        "method.rank, lowered to what fits clients.memory",
    )
    partition: Literal["iid", "dirichlet", "column", "files"] = Field(
        default="dirichlet",
        description="how examples are divided over the clients (Sec. 5: Dirichlet); files, a "
        "client a file, if data.train names several",
    )
    by: str = Field(
        default="",
        description="column to divide by, for dirichlet and column; '': the task's first attribute",
    )
    alpha: Annotated[float, Field(ge=1e-3, le=1e6)] = Field(
        default=0.5, description="Dirichlet concentration; small means skewed"
    )
    min_examples: Positive = Field(
        default=16,
        description="fewest examples of a client; lowered for small data if not set",
    )
    validation_share: Annotated[float, Field(ge=0, le=0.9)] = Field(
        default=0.1,
        description="if devices measure (evaluation.where), or heads are levelled: share of its "
        "texts that each client holds out, instead of training on them",
    )


class MethodConfig(Section):
    """How the federation fine-tunes."""

    name: str = Field(
        default="leff", description="leff, fedavg, fedbitfit, fedlora, slora, flora or flexlora"
    )
    sampling: Literal["importance", "round_robin", "random", "fixed"] = Field(
        default="importance",
        description="how a client's block is drawn (Sec. 3.2); fixed: each client keeps its block",
    )
    scale: Literal["literal", "standardised"] = Field(
        default="standardised",
        description="literal: softmax of the raw importances (Sec. 3.2), which is uniform",
    )
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        default=1.0, description="of the softmax; large means uniform"
    )
    source: Literal["proxy", "clients"] = Field(
        default="proxy", description="where the importance is measured; the paper leaves it open"
    )
    exploration: Share = Field(
        default=0.1, description="share of uniform sampling, so that every layer gets trained"
    )
    together: bool = Field(
        default=False,
        description="all clients of a round train around one place, each block inside all larger "
        "ones; always so with privacy, where the noise then is on few layers",
    )
    stratified: bool = Field(
        default=True,
        description="spread the clients' draws over the blocks; false: independent draws",
    )
    mixed: bool = Field(
        default=True,
        description="with training.levelled, for classifiers: clients that have every label "
        "together train the same block",
    )
    relaxation: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=2.0,
        description="a layer moves to its clients' mean by this factor times the share of data "
        "that trained it, at most fully; 0: always fully (Sec. 3.5)",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="the server's momentum over rounds (FedAvgM)"
    )
    clip_norm: Annotated[float, Field(ge=0, le=1e9)] = Field(
        default=0.0,
        description="scale what a client changed down to this L2 norm (the records have it as "
        "norm); 0: never; not in the paper",
    )
    merge: Literal["mean", "trimmed_mean", "median"] = Field(
        default="mean",
        description="how clients' tensors are merged; trimmed_mean and median hold against a few "
        "hostile clients, count every client the same, and need three or more that trained a layer",
    )
    trim: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.25, description="for trimmed_mean: share of the clients cut at each end"
    )
    most_weight: Fraction = Field(
        default=1.0,
        description="for merge mean: most that one client may have of a round's weight",
    )
    weights: Literal["auto", "examples", "steps", "equal"] = Field(
        default="auto",
        description="what a client counts in a merge of means: its examples, its examples over its "
        "steps (FedNova), or the same as all; auto: steps where heads are levelled, else examples",
    )
    rank: Positive = Field(default=8, description="R of adapters (Table 5: 8)")
    lora_alpha: Annotated[float, Field(ge=1e-3, le=1e6)] = Field(
        default=16.0, description="adapters are scaled by lora_alpha / R; not in the paper"
    )
    base_bits: Literal[32, 16, 8, 4] = Field(
        default=32,
        description="for fedlora and flexlora: bits of the frozen linear weights: 16 bfloat16, "
        "8 by row, 4 NF4; below 32, word embeddings are float16",
    )
    sparse_share: Fraction = Field(
        default=0.25, description="share of the rounds in slora's first stage; not in the paper"
    )


class ContextConfig(Section):
    """What stands in for the layers that a client does not train (Sec. 3.3)."""

    name: Literal["distil", "drop", "quantise", "auto"] = Field(
        default="quantise",
        description="the paper: distil; auto: chosen by clients.memory and clients.flops",
    )
    suffix: Literal["", "distil", "drop", "quantise"] = Field(
        default="", description="for the layers after the block; '': as before it"
    )
    rate: Fraction = Field(default=0.5, description="r: distil and drop keep ⌈n·r⌉ of n layers")
    bits: Literal[32, 16, 8, 4] = Field(
        default=8,
        description="of linear weights: 16 bfloat16, 8 by row, 4 NF4; 32: unchanged (the paper)",
    )
    embedding_bits: Literal[32, 16] = Field(
        default=16, description="of the client's frozen word embeddings; 32: unchanged (the paper)"
    )
    steps: Annotated[int, Field(ge=0, le=10**6)] = Field(
        default=40, description="distillation steps a round; not in the paper"
    )
    batch_size: BatchSize = Field(
        default=16, description="most texts of a distillation step; not in the paper"
    )
    learning_rate: Rate = Field(
        default=1e-3, description="for distillation; falls in the second half; not in the paper"
    )
    attention_weight: Share = Field(
        default=0.1, description="α in (1-α)·MSE + α·KL (Sec. 3.3); value not in the paper"
    )
    whole: bool = Field(
        default=False, description="distil a span's layers together (the paper); false: one by one"
    )
    target_error: Annotated[float, Field(ge=0, le=1e3)] = Field(
        default=0.0, description="stop distilling at this relative error; 0: do all steps"
    )
    seconds: Seconds = Field(
        default=0.0, description="time limit for distilling in a round; 0: none"
    )


class TrainingConfig(Section):
    """Rounds, and a client's work in one (Sec. 3.4: AdamW, lr 1e-5, one epoch)."""

    rounds: Annotated[int, Field(ge=1, le=10**6)] = Field(
        default=8, description="number of rounds; the paper: 20"
    )
    epochs: Epochs = Field(
        default=1.0,
        description="local epochs a round (Sec. 3.4); auto: as many steps as take the operations "
        "of an epoch in which all layers train",
    )
    batch_size: BatchSize = Field(default=16, description="examples of a step; not in the paper")
    learning_rate: Rate | None = Field(
        default=None,
        description="AdamW; without it, chosen by the model's size and the kind of task "
        "(docs/do/own-data.md); the paper: 1e-5",
    )
    schedule: Literal["constant", "linear"] = Field(
        default="linear",
        description="linear: the rate falls over the rounds, to a tenth in the last",
    )
    calibrated: bool = Field(
        default=True,
        description="for classifiers: add the log frequencies of the client's labels to the "
        "logits in training (logit adjustment)",
    )
    calibrated_from: Share = Field(
        default=0.1,
        description="with calibrated: a client has the plain loss unless at least this share of "
        "its examples is not of its most frequent label",
    )
    levelled: bool = Field(
        default=True,
        description="for classifiers and regressions: after each merge the server moves the head's "
        "bias until the model answers as the clients' labels are",
    )
    proximal: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0, description="μ of FedProx, which pulls weights to those at the round's start"
    )
    precision: Precision = Field(default="float32", description="of a client's matrix products")
    accumulation: BatchSize = Field(
        default=1,
        description="parts in which a step's batch is done one after another, to save memory; "
        "divides training.batch_size; more if a client's memory needs it",
    )
    checkpointing: bool = Field(
        default=False,
        description="run the trained layers and those after them again in the backward pass, to "
        "save memory; same results",
    )
    optimizer: Optimizer = Field(
        default="adamw",
        description="adamw8bit: 8-bit state for tensors of 4096 values or more, a quarter of the "
        "memory (bitsandbytes; slow on a CPU)",
    )
    weight_decay: Share = Field(default=0.01, description="AdamW's default")
    max_grad_norm: AboveZero = Field(default=1.0, description="clip gradients to this norm")

    @property
    def given_epochs(self) -> float:
        """The local epochs before they are made as many as `auto` says."""
        return 1.0 if self.epochs == "auto" else self.epochs

    @property
    def step(self) -> Step:
        """How a training step is done."""
        return picked(Step, self)

    def local(self, index: int) -> LocalTraining:
        """Return the settings of a client's work in round `index` (from 0)."""
        rate = self.learning_rate
        if rate is None:
            raise ConfigError("training.learning_rate is not set; see leff.runs.rates")
        if self.schedule == "linear":  # from the full rate to a tenth of it in the last round
            rate *= 1 - 0.9 * index / max(1, self.rounds - 1)
        return replace(picked(LocalTraining, self), learning_rate=rate, epochs=self.given_epochs)


class EvaluationConfig(Section):
    """How the model is measured."""

    where: Literal["server", "devices", "both"] = Field(
        default="server",
        description="server: on its validation and test split; devices: each on its own held-out "
        "examples, so the server needs none; both: both",
    )
    bits: Literal[32, 16, 8] = Field(
        default=8,
        description="bits of the linear weights of the model that devices measure; 8: the parts "
        "that context quantise sends too; below 32, word embeddings are float16; also for "
        "training.levelled",
    )
    device_metric: str = Field(
        default="",
        description="headline of what devices measure: accuracy, matthews, f1, macro_f1, pearson, "
        "mse or perplexity; '': the task's own, perplexity for texts",
    )
    every: Positive = Field(default=1, description="rounds between measurements; see also last")
    last: Positive = Field(
        default=1, description="so many of the last rounds are always measured, each of them"
    )
    examples: Positive = Field(default=64, description="validation examples, in each round")
    texts: Annotated[int, Field(ge=0, le=10**4)] = Field(
        default=3, description="generated texts that each round's record keeps, the same examples'"
    )
    final_examples: CountOrAll = Field(
        default=200, description="test examples, before and after the run; or 'all'"
    )
    batch_size: BatchSize = Field(default=64, description="examples in a batch")
    gap_clients: Annotated[int, Field(ge=0, le=10**6)] = Field(
        default=2,
        description="clients a round whose block is also measured in the full model (plug-in gap)",
    )
    gap_examples: Positive = Field(
        default=64, description="validation examples for the plug-in gap"
    )
    gradient_error: bool = Field(
        default=False, description="also measure Δ² of Assumption 4 for these clients"
    )
    beams: Annotated[int, Field(ge=1, le=MOST_BEAMS)] = Field(
        default=1, description="beam width of the final texts; 1 is greedy"
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=2**17)] = Field(
        default=64, description="most tokens of a generated text"
    )


class EngineConfig(Section):
    """Where and how the clients are run."""

    name: Literal["local", "flower", "flower-simulation"] = Field(
        default="local",
        description="local: clients are simulated on this machine; flower: they are devices on a "
        "network (docs/do/server.md); flower-simulation: they are simulated on a Ray cluster",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps")
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="torch threads of each process; changes the last bits of results"
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="clients at a time; 0: cores / threads, at most 4; same results"
    )
    upload: Upload = Field(
        default="full",
        description="form of what clients send back; bf16, int8: what training changed, rounded, "
        "with error feedback; about half and a quarter of the bytes",
    )
    checkpoints: Annotated[int, Field(ge=2, le=10**6)] = Field(
        default=2, description="checkpoints kept"
    )
    server: Path | None = Field(
        default=None,
        description="for flower: the server's folder; without it LEFF_SERVER, else the one server "
        "that runs on this machine",
    )
    quorum: Annotated[int, Field(ge=1, le=10**6)] = Field(
        default=1, description="for flower: fewest clients with which a round begins"
    )
    wait: str = Field(
        default="10min", description="for flower: how long a round waits for its quorum"
    )
    deadline: str = Field(
        default="30min",
        description="for flower: time limit of a client's work in a round; who has not answered by "
        "then has failed",
    )
    partial: bool = Field(
        default=True,
        description="for flower: a device that the deadline stops sends the steps that it did",
    )
    device_clients: Annotated[int, Field(ge=1, le=10**4)] = Field(
        default=1,
        description="for flower: most clients that one device may be, a file each; each has a vote",
    )
    spare: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.0,
        description="for flower: share of clients that are asked beyond clients.per_round; the "
        "round ends once as many as that have answered",
    )
    client_cpus: Annotated[float, Field(gt=0, le=4096)] = Field(
        default=1.0,
        description="for flower-simulation: CPUs of a client at work; Ray runs as many at a time "
        "as have room",
    )
    client_gpus: Annotated[float, Field(ge=0, le=64)] = Field(
        default=0.0,
        description="for flower-simulation: GPUs of a client at work, or its share of one; 0: it "
        "works on the CPU",
    )
    ray: str = Field(
        default="",
        description="for flower-simulation: address of a Ray cluster, such as auto; without it, "
        "Ray starts and ends with the run on this machine",
    )


class PrivacyConfig(Section):
    """What a run may tell of one client; on with epsilon, noise or secure_sums (do/private.md)."""

    where: Literal["server", "device"] = Field(
        default="server",
        description="server: it adds noise to the sum of updates, and is trusted with each; "
        "device: each adds noise to its own update, which takes far more of it",
    )
    epsilon: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0, description="most ε that the whole run may spend; 0: no limit"
    )
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-5, description="δ; must be below 1 / clients"
    )
    noise: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None,
        description="deviation of the noise in each value of a sum, in units of the clip; without "
        "it, the least that keeps epsilon; 0: none, to see what clipping alone does",
    )
    clip: Annotated[float, Field(gt=0, le=1e9)] = Field(
        default=1.0,
        description="largest L2 norm of all that one client changes in a round (a run without "
        "privacy has the norms in its records); 10 by default with secure_sums and no noise",
    )
    quantile: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="above 0: the clip follows this quantile of the clients' norms, which costs a "
        "tenth more noise (Andrew et al. 2021); 0: it stays",
    )
    secure_sums: bool = Field(
        default=False,
        description="the server gets sums under masks, and no single update "
        "(docs/understand/secure-sums.md)",
    )
    least_cohort: Annotated[int, Field(ge=2, le=10**6)] = Field(
        default=3, description="with secure_sums: fewest clients of a sum; of fewer there is none"
    )
    threshold: Annotated[float, Field(gt=0.5, le=1)] = Field(
        default=0.67,
        description="with secure_sums: share of a round's clients that has to be left to the end; "
        "fewer that work together with the server learn nothing",
    )
    stop: bool = Field(
        default=True, description="end the run before a round that would pass epsilon"
    )
    reproducible: bool = Field(
        default=False,
        description="noise from the run's seed, for research: who knows the seed can take it away; "
        "false: from the operating system",
    )

    @property
    def on(self) -> bool:
        """Whether what clients tell is bounded in some way."""
        return self.noised or self.secure_sums

    @property
    def noised(self) -> bool:
        """Whether noise is asked for, be it none."""
        return self.epsilon > 0 or self.noise is not None

    @property
    def replaced(self) -> bool:
        """Whether ε is of a client's data being other data, not of the client being there."""
        return self.where == "device" or self.secure_sums


class RunConfig(Section):
    """A whole run."""

    preset: Literal["default", "paper"] = Field(
        default="default",
        description="values of options that are not set; default: the best we know; paper: the "
        "paper's literal procedure",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="all random draws derive from it"
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    proxy: ProxyConfig = ProxyConfig()
    clients: ClientsConfig = ClientsConfig()
    method: MethodConfig = MethodConfig()
    context: ContextConfig = ContextConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        """Fill in the preset's values, and then the method's; values that are given win."""
        if not isinstance(values, Mapping):
            return values
        combined = dict(cast("Mapping[str, Any]", values))
        preset = combined.get("preset", "default")
        filled = _filled(combined, PRESETS.get(preset, {}) if isinstance(preset, str) else {})
        ours = _given(filled, "method").get("name", "leff") == "leff"
        return filled if ours else _filled(filled, PUBLISHED)

    @model_validator(mode="before")
    @classmethod
    def _private(cls, values: Any) -> Any:
        """Fill in what privacy needs, before the preset does; values that are given win."""
        if not isinstance(values, Mapping):
            return values
        given = dict(cast("Mapping[str, Any]", values))
        own = _given(given, "privacy")
        if own.get("epsilon") or own.get("noise") is not None:
            return _filled(given, PRIVATE)
        return _filled(given, {**PRIVATE, **SUMS_ALONE}) if own.get("secure_sums") else given

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        check_together(self)
        return self


def _given(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what is given of a section."""
    section: Any = values.get(name, {})
    if isinstance(section, Section):
        section = section.model_dump(exclude_unset=True)
    return cast("Mapping[str, Any]", section) if isinstance(section, Mapping) else {}


def _filled(values: Mapping[str, Any], more: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a configuration's values, with those of `more` where none is given."""
    combined = dict(values)
    for name, options in more.items():
        if isinstance(combined.get(name, {}), Section | Mapping):
            combined[name] = {**options, **_given(combined, name)}
    return combined
