"""One round as a typed record: its clients, failures, bytes, times and measurements.

    record = RoundRecord.from_dict(json.loads(line))       # a line of a run's rounds.jsonl
    record.loss, record.clients[0].layers, record.to_dict()

The live table, the picture, the paper's tables and results read records.  Round 0 is the model
before the first round.  A field that is None was not measured; most are then left out of the JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from leff.capacity.clock import idle_share
from leff.wire.messages import Capacity, Job, Update

if TYPE_CHECKING:
    from leff.capacity.schedule import Schedule
    from leff.methods.method import RoundContext

FROM_UPDATE = (
    *("client", "layers", "examples", "steps", "losses", "train_seconds", "layer_scores"),
    *("download_bytes", "upload_bytes", "state_bytes", "failure", "norm"),
)
ALWAYS = ("memory_bytes", "step_flops", "losses", "predicted_bytes", "failure", "train_loss")


@dataclass(frozen=True)
class SimulatedSeconds:
    """A client's seconds by the virtual clock.  `setup` comes once, before its first round.

    `round` is the sum of `download`, `compute` and `upload`.
    """

    download: float
    compute: float
    upload: float
    round: float
    setup: float


@dataclass(frozen=True)
class ClientRecord:
    """One client's part in a round; fields without a comment are as in `messages`."""

    client: int
    capacity: int  # layers that the client reported
    memory_bytes: int | None  # reported, like step_flops
    step_flops: int | None
    layers: tuple[int, ...]  # the full model's layers that the client trained
    examples: int
    steps: int
    losses: tuple[float, float] | None  # nats; means of the first and last quarter of the steps
    download_bytes: int
    upload_bytes: int
    train_seconds: float
    state_bytes: int
    predicted_bytes: int | None
    accumulation: int
    checkpointing: bool
    layer_scores: tuple[float, ...]
    failure: str | None
    out_of_memory_bytes: int | None = None
    norm: float | None = None  # L2, of what training changed, before it was clipped
    norms: tuple[float, ...] | None = None  # the same, of each of `layers`
    clipped: bool | None = None
    device: str | None = None
    seconds_simulated: SimulatedSeconds | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClientRecord":
        """Return the record of JSON values.  Raises TypeError for unknown keys."""
        own: dict[str, Any] = dict(values)
        own.setdefault("norms", None)
        for name in ("layers", "layer_scores", "losses", "norms"):
            own[name] = None if own[name] is None else tuple(own[name])
        if own.get("seconds_simulated") is not None:
            own["seconds_simulated"] = SimulatedSeconds(**own["seconds_simulated"])
        return cls(**own)


@dataclass(frozen=True)
class Levelling:
    """How the head was levelled after a merge (`methods.level`); `step` is empty if it was not."""

    step: Sequence[float] = ()  # of each class's bias
    clients: int = 0  # that answered
    download_bytes: int = 0


@dataclass(frozen=True)
class RoundRecord:
    """One round; `facts` are the method's own values, such as layer scores and entropy."""

    round: int  # from 1; 0 is the model before the first round
    train_loss: float | None = None  # mean over the clients' last steps, weighted by examples
    learning_rate: float | None = None
    failures: int | None = None
    dropped: int | None = None  # messages that belonged to no client of the round
    download_bytes: int | None = None  # over clients, for training (`level` has its own)
    upload_bytes: int | None = None
    sat_out: Mapping[str, str] | None = None  # client -> reason
    round_seconds_simulated: float | None = None
    setup_seconds_simulated: float | None = None
    idle_share: float | None = None
    clients: tuple[ClientRecord, ...] = ()
    level: "Levelling | None" = None  # with training.levelled
    epsilon: float | None = None  # of privacy, spent so far
    reproducible: bool | None = None  # true if who knows the run's seed can take the noise away
    secure: Mapping[str, Any] | None = None  # with secure sums: clients by layer, bytes
    too_few: Mapping[str, int] | None = None  # layer or tail -> its clients, if not merged
    plug_in: Sequence[Mapping[str, Any]] | None = None  # `gap.Gap` of some clients
    plug_in_gap: float | None = None
    plan_seconds: float | None = None
    train_seconds: float | None = None
    observe_seconds: float | None = None
    merge_seconds: float | None = None
    loss: float | None = None  # the full model's, on validation examples
    metric: float | None = None
    texts: Sequence[Mapping[str, Any]] | None = None  # of some validation examples, as generated
    devices: Mapping[str, Any] | None = None  # what devices measured (`runs.on_devices`)
    evaluation_seconds: float | None = None
    before: Mapping[str, Any] | None = None  # every metric on the test split, in round 0
    seconds: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def layer_scores(self) -> Sequence[float] | None:
        """I_l of every layer, or None if the method did not measure it."""
        return self.facts.get("layer_scores")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values of a line.  Facts are keys beside the other fields."""
        values = _measured(asdict(self))
        values["clients"] = [_measured(client) for client in values["clients"]]
        if not self.round:  # no client trained in round 0
            del values["clients"], values["train_loss"]
        return {"round": self.round, **values.pop("facts"), **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RoundRecord":
        """Return the record of a line's values; keys without a field of their own are facts."""
        names = {each.name for each in fields(cls)} - {"facts", "clients"}
        own = {name: value for name, value in values.items() if name in names}
        facts = {n: v for n, v in values.items() if n not in names and n != "clients"}
        clients = tuple(ClientRecord.from_dict(each) for each in values.get("clients", ()))
        if own.get("level") is not None:
            own["level"] = Levelling(**own["level"])
        return cls(**own, clients=clients, facts=facts)


def _measured(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that go into the JSON, with lists in place of tuples."""
    kept = {name: value for name, value in values.items() if value is not None or name in ALWAYS}
    return {
        name: list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
        for name, value in kept.items()
    }


def round_record(
    context: "RoundContext",
    reports: Sequence[Capacity],
    schedule: "Schedule",
    jobs: Mapping[int, Job],
    updates: Sequence[Update],
    dropped: int = 0,
) -> RoundRecord:
    """Return the record of a round.

    `jobs` are the clients' jobs as run.  `updates` have no payloads and are in the order of ids.
    `dropped` messages belonged to no client of the round.
    """
    capacities = {report.client: report for report in reports}
    clients = tuple(
        _client_record(update, capacities[update.client], jobs[update.client], schedule)
        for update in updates
    )
    done = [(c.examples, c.losses[1]) for c in clients if c.failure is None and c.losses]
    total = sum(examples for examples, _ in done)
    spent = [c.seconds_simulated for c in clients if c.seconds_simulated is not None]
    own, absent = [each.round for each in spent], [0.0 for _ in schedule.sat_out]
    return RoundRecord(
        round=context.index + 1,
        train_loss=sum(n * loss for n, loss in done) / total if done else None,
        learning_rate=context.training.learning_rate,
        failures=sum(client.failure is not None for client in clients),
        dropped=dropped or None,
        download_bytes=sum(client.download_bytes for client in clients),
        upload_bytes=sum(client.upload_bytes for client in clients),
        sat_out={str(i): reason for i, reason in sorted(schedule.sat_out.items())} or None,
        round_seconds_simulated=max(own, default=None),
        setup_seconds_simulated=max((each.setup for each in spent), default=None),
        idle_share=idle_share([*own, *absent]) if own else None,
        clients=clients,
        facts=schedule.plan.facts,
    )


def _client_record(
    update: Update, capacity: Capacity, job: Job, schedule: "Schedule"
) -> ClientRecord:
    step, timed = job.training.step, schedule.timed.get(update.client)
    simulated = None
    if timed is not None:
        spent = timed.seconds(update)
        simulated = SimulatedSeconds(
            spent.download, spent.compute, spent.upload, spent.total, timed.setup_seconds
        )
    return ClientRecord(
        **{name: getattr(update, name) for name in FROM_UPDATE},
        capacity=capacity.layers,
        memory_bytes=capacity.memory_bytes,
        step_flops=capacity.step_flops,
        predicted_bytes=job.predicted_bytes or None,
        accumulation=step.accumulation,
        checkpointing=step.checkpointing,
        out_of_memory_bytes=update.out_of_memory_bytes or None,
        norms=update.norms or None,
        clipped=update.clipped or None,
        device=None if timed is None else timed.device.name,
        seconds_simulated=simulated,
    )
