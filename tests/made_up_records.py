"""Records of rounds that nobody ran, with the fields that a test is about."""

from collections.abc import Sequence
from typing import Any

from leff.record import ClientRecord, RoundRecord

OWN = set(RoundRecord.__dataclass_fields__)


def client_record(
    number: int, layers: Sequence[int], failure: str | None = None, **more: Any
) -> ClientRecord:
    values: dict[str, Any] = {
        "client": number,
        "capacity": 4,
        "memory_bytes": None,
        "step_flops": None,
        "layers": tuple(layers),
        "examples": 10,
        "steps": 3,
        "losses": None if failure else (2.5, 2.25),
        "download_bytes": 1000,
        "upload_bytes": 100,
        "train_seconds": 0.5,
        "state_bytes": 2000,
        "predicted_bytes": None,
        "accumulation": 1,
        "checkpointing": False,
        "layer_scores": (),
        "failure": failure,
    }
    return ClientRecord(**values | more)


def round_record(number: int, **values: Any) -> RoundRecord:
    """A record of these values; those that are none of its fields are facts."""
    own = {name: value for name, value in values.items() if name in OWN}
    return RoundRecord(number, **own, facts={n: v for n, v in values.items() if n not in OWN})
