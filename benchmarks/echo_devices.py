"""Devices that do all but train, as threads of one process: for bytes and for the server's memory.

    python -m benchmarks.echo_devices 4 FORGET HOME HOME ...

They are the real devices: key, connection, gateway, cache, answers.  Only the training is left out.
What trains comes back in the right names and shapes, as it came, with every value changed by the
1024th part, so that it is another part in the next round.  At most so many devices as the first
number says hold an update in memory at a time.  With ``--no-cache`` a device forgets its parts
after each job.
"""

import argparse
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from leff.client.model import tuned_values
from leff.device.exchange import HttpsExchange
from leff.device.home import DeviceHome
from leff.device.process import DeviceLoop
from leff.device.work import Worker, worker_of
from leff.methods.checks import expected_shapes
from leff.models import config_from_json, empty_model, layer_prefix
from leff.wire.asks import Answer, Ask, DeviceReport
from leff.wire.json import from_json
from leff.wire.messages import Job, Update
from leff.wire.tensors import pack

CHANGE = 1 + 2**-10


class EchoWorker(Worker):
    """A device's worker that sends back what it got."""

    slots: threading.Semaphore
    forget: Path

    def _train(self, ask: Ask, report: DeviceReport, until: float) -> Answer:
        exchange = self._exchange
        assert isinstance(exchange, HttpsExchange)
        try:
            job = from_json(Job, ask.job)
            exchange.keep([ask.task.tokenizer, *job.parts])
            for part in job.parts:  # all devices at once, without tensors in memory
                if not exchange.cache.holds(part):
                    exchange.transfers.fetch(part, ask.token, exchange.cache, until)
            with self.slots:
                return super()._train(ask, report, until)
        finally:
            if self.forget.exists():
                for path in exchange.cache.folder.iterdir():
                    path.unlink()

    def _trained(self, ask: Ask, job: Job, until: float) -> Update:
        fetch = self._fetch(ask, [ask.task.tokenizer, *job.parts], until)
        model = empty_model(config_from_json(job.config), job.kind)
        start = _start(model, job, fetch)
        names = expected_shapes(model, job)
        payload = pack({name: start[name] * CHANGE for name in names})
        examples = self._examples(ask, until)[0].clients[ask.share].train
        return Update(
            round=job.round,
            client=job.client,
            layers=job.block,
            examples=len(examples),
            payload=payload,
            losses=(1.0, 1.0),
            steps=1,
            layer_scores=(1.0,) * len(job.block) if job.tuned is None else (),
            upload_bytes=len(payload),
        )


def _start(model: Any, job: Job, fetch: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that train as the job brings them, under the full model's names."""
    if job.tuned is not None:
        return tuned_values(job.tuned, fetch)
    found = dict(fetch(job.tail))
    for segment in (each for each in job.segments if each.trains):
        for layer, part in zip(segment.sources, segment.parts, strict=True):
            prefix = layer_prefix(model, layer)
            found |= {prefix + name: tensor for name, tensor in fetch(part).items()}
    return found


class EchoLoop(DeviceLoop):
    """A device's loop with such a worker."""

    def _worker_of_data(self) -> Any:
        if self._worker is None:
            self._worker = worker_of(
                self._home, self._settings, self._transfers, self._session, self._say, EchoWorker
            )
        return self._worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("together", type=int)
    parser.add_argument("forget", type=Path)
    parser.add_argument("homes", type=Path, nargs="+")
    given = parser.parse_args()
    logging.basicConfig(level="WARNING")
    torch.set_num_threads(1)
    EchoWorker.slots = threading.Semaphore(given.together)
    EchoWorker.forget = given.forget
    homes = [DeviceHome.open(path) for path in given.homes]
    loops = [EchoLoop(home, home.settings()) for home in homes]
    threads = [threading.Thread(target=loop.run, daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    with suppress(KeyboardInterrupt):
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
