"""A method and the privacy of a run, for rounds on a tiny model."""

from small_rounds import PAD, proxy

from leff.methods.jobs import JobWriter
from leff.privacy.ledger import Ledger
from leff.runs.build_method import build_method
from leff.runs.config import load_config
from leff.runs.privacy import run_noise
from leff.runs.private_rounds import ServerNoise
from leff.wire.parts import PartStore

SIZES = (12, 5, 9, 7)  # examples of each client


def private(name, model, folder, noise=1.0, clip=0.1, rate=1.0, seed=0, **more):
    """The method and the privacy of a run with four clients of 1, 2, 1 and 4 layers."""
    config = load_config(
        None,
        {
            "method.name": name,
            "method.rank": 2,
            "clients.count": len(SIZES),
            "clients.layers": [1, 2, 1, 4],
            "clients.per_round": rate,
            "privacy.noise": noise,
            "privacy.clip": clip,
            "privacy.reproducible": True,
            "training.rounds": 4,
            "seed": seed,
            **more,
        },
    )
    writer = JobWriter(PartStore(folder / "parts"), "generation", PAD, private=True)
    method = build_method(config, writer, proxy("generation"), model)
    method.begin(model)
    folder.mkdir(exist_ok=True)
    ledger, random = Ledger(folder / "privacy.json"), run_noise(config, folder)
    return method, ServerNoise(config, ledger, noise, lambda: random), writer.store
