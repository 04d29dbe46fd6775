"""Flower's simulation on Ray as a network: virtual nodes, on one or several machines or GPUs.

    network = SimulationNetwork(clients, resources)      # nothing starts yet
    network.present()                                    # {node id: Member("client 0", 0), ...}

Messages go through Flower's public `Grid`.  Parts and updates go through the run's folder, so all
machines need it, and the shards, under the same path.  Ray keeps a few processes for all clients
(as many as its CPUs and GPUs allow), and each answers for one client at a time.
"""

import contextlib
import functools
import logging
import math
import os
import queue
import signal
import sys
import threading
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leff.engines.flower.seam import Member
from leff.errors import RunError, one_line
from leff.files import locked, make_folder
from leff.network.grants import Grant, Traffic
from leff.network.superlink import LinkLostError
from leff.wire.asks import DeviceReport
from leff.wire.flower_texts import KEY, record

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    from leff.device.work import Worker

ANY = "1000000000GB"  # a simulated client's owner is the server's
LOOK_SECONDS = 0.05
START_TRIES = 3
START_SECONDS = 3600.0  # for Ray's processes to start and to answer
END_SECONDS = 10.0  # for clients at work to end, before Ray ends them
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
log = logging.getLogger("leff.network")


@dataclass(frozen=True)
class SimulatedClients:
    """The clients of a run: each has a file of examples, and a folder for what it keeps."""

    files: tuple[Path, ...]
    folder: Path  # of the clients
    parts: Path
    arrivals: Path
    run: str
    device: str = "cpu"
    threads: int = 1
    validation_share: float = 0.0

    def answer(self, client: int, text: str) -> str:
        """Return a client's answer to an ask; of the same client, one is worked on at a time."""
        own = _folder_of(self.folder, client)
        with locked(own / ".lock", math.inf):
            return _worker(self, client).answer(text)


def _folder_of(folder: Path, client: int) -> Path:
    """Return the folder of one client, which is there."""
    own = folder / f"client-{client:03}"
    make_folder(own)
    return own


@functools.lru_cache(maxsize=16)  # a process keeps the examples of some clients
def _worker(clients: SimulatedClients, client: int) -> "Worker":
    from leff.device.exchange import FolderExchange
    from leff.device.settings import DataSection, DeviceSettings, LimitSettings
    from leff.device.work import Worker
    from leff.models.hardware import torch_device

    for noisy in ("leff", "flwr"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    share = clients.validation_share
    settings = DeviceSettings(
        name=_name(client),
        threads=clients.threads,
        data=DataSection(train=str(clients.files[client]), validation_share=share),
        limits=LimitSettings(
            cache=ANY, download=ANY, upload=ANY, time="1000000h", epochs=float(10**9)
        ),
    )
    return Worker(
        _folder_of(clients.folder, client),
        clients.run,
        settings,
        FolderExchange(clients.parts, clients.arrivals / str(client)),
        torch_device(clients.device),
        clients.run,
    )


def _name(client: int) -> str:
    return f"client {client}"


def client_app(clients: SimulatedClients) -> "ClientApp":
    """Return what each virtual node runs: it answers asks, and the empty text with its number."""
    from flwr.app import Message
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def answer(message: "Message", context: "Context") -> "Message":  # pyright: ignore[reportUnusedFunction]
        client = int(context.node_config["partition-id"])
        text = str(message.content.config_records[KEY][KEY])
        answered = clients.answer(client, text) if text else str(client)
        return Message(record(answered), reply_to=message)

    return app


@dataclass(frozen=True)
class Resources:
    """What one simulated client takes, and where: a Ray cluster's address, or this machine.

    `cpus` bounds the CPUs of this machine that Ray may use; None: all.
    """

    client_cpus: float = 1.0
    client_gpus: float = 0.0
    address: str = ""
    cpus: int | None = None

    def backend(self) -> dict[str, Any]:
        """Return the `backend_config` of Flower's simulation."""
        share = {"num_cpus": self.client_cpus, "num_gpus": self.client_gpus}
        return {"client_resources": share}

    def start_ray(self) -> None:
        """Start Ray, or join its cluster; Flower's simulation takes what is there.

        Ray gives its own processes 30 s to start, which a busy machine may need twice.
        """
        import ray

        own: dict[str, Any] = {"include_dashboard": False, "num_cpus": self.cpus}
        if self.address:
            own = {"address": self.address}
        path = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
        for tried in range(1, START_TRIES + 1):
            try:
                ray.init(  # pyright: ignore[reportUnknownMemberType]
                    runtime_env=path,
                    logging_level=logging.ERROR,
                    **own,
                )
                return
            except Exception as error:  # Ray has no class for a process that was too slow
                ray.shutdown()  # pyright: ignore[reportUnknownMemberType]
                if self.address or tried == START_TRIES:
                    raise
                log.warning("Ray did not start (%s); trying again", one_line(str(error)))


@contextlib.contextmanager
def _own_handlers() -> Generator[None]:
    """Keep this process's way to end when Ray starts, which sets handlers that abort it."""
    if threading.current_thread() is not threading.main_thread():  # it alone may set handlers
        yield
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class SimulationNetwork:
    """Implements `seam.Network`; the simulation starts when it is first used, in a thread."""

    def __init__(self, clients: SimulatedClients, resources: Resources) -> None:
        self._clients, self._resources, self.federation = clients, resources, clients.run
        self._members: dict[int, Member] = {}
        self._grid: Any = None
        self._thread: threading.Thread | None = None
        self._grids: queue.Queue[Any] = queue.Queue()
        self._over, self._failure = threading.Event(), ""

    # The simulation

    def _simulate(self) -> None:
        """Run Flower's simulation; its ServerApp hands its grid over, and waits for the end."""
        from flwr.serverapp import Grid, ServerApp
        from flwr.simulation import run_simulation

        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: "Context") -> None:  # pyright: ignore[reportUnusedFunction]
            self._grids.put(grid)
            self._over.wait()

        try:
            self._resources.start_ray()
            app, count = client_app(self._clients), len(self._clients.files)
            run_simulation(server, app, count, backend_config=self._resources.backend())
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            self._failure = one_line(f"{type(cause).__name__}: {cause}")[:300]
        finally:
            self._over.set()
            self._grids.put(None)

    def _open(self) -> Any:
        if self._thread is None:
            os.environ |= QUIET
            self._thread = threading.Thread(target=self._simulate, name="flower", daemon=True)
            with _own_handlers():
                self._thread.start()
                self._grid = self._grids.get()
        self._check_alive()
        return self._grid

    def _check_alive(self) -> None:
        if self._over.is_set():
            raise RunError(
                f"Flower's simulation has ended ({self._failure or 'without a reason'}); see "
                "engine.client_cpus, engine.client_gpus and engine.ray"
            )

    # As `seam.Network` says

    def present(self) -> dict[int, Member]:
        if not self._members:
            while len(nodes := sorted(self._open().get_node_ids())) < len(self._clients.files):
                self._over.wait(LOOK_SECONDS)
            asked = self.push([(node, "") for node in nodes], START_SECONDS)
            while asked:
                for message, text in self.pull(asked):
                    client = int(text or "")
                    self._members[nodes[asked.pop(message)]] = Member(_name(client), client)
                self._over.wait(LOOK_SECONDS)
        return self._members

    def push(self, texts: Sequence[tuple[int, str]], seconds: float) -> dict[str, int]:
        from flwr.app import Message

        grid, places = self._open(), dict[str, int]()
        for place, (node, text) in enumerate(texts):
            message = Message(record(text), node, "train", ttl=seconds)
            places |= dict.fromkeys(grid.push_messages([message]), place)
        return places

    def pull(self, messages: Collection[str]) -> list[tuple[str, str | None]]:
        answers: list[tuple[str, str | None]] = []
        for reply in self._open().pull_messages(messages):
            if reply.has_error():
                raise RunError(
                    f"a simulated client's process failed ({one_line(reply.error.reason)[:300]}); "
                    "if its memory ran out, raise engine.client_cpus, so that fewer work at a time"
                )
            text = str(reply.content.config_records[KEY][KEY])
            answers.append((reply.metadata.reply_to_message_id, text))
        return answers

    def lost(self, error: LinkLostError) -> None:
        raise RunError(str(error))

    def issue(self, grant: Grant) -> str:
        return grant.job

    def revoke(self, token: str) -> None:
        """Do nothing: the folders are open to all clients."""

    def traffic(self, token: str) -> Traffic:
        """Return nothing: the server counts what clients would fetch, as in the local engine."""
        return Traffic()

    def reported(self, key: str, report: DeviceReport) -> None:
        """Do nothing: the run's configuration says what the clients are."""

    def refused(self, key: str, why: str) -> None:
        """Do nothing: there is no server whose status is asked for."""

    def working(self, round: int) -> None:
        """Do nothing: the run's own records say it."""

    def close(self) -> None:
        """End the simulation, and the processes that Ray started for it."""
        if self._thread is None:
            return
        self._over.set()
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            import ray

            ray.shutdown()  # pyright: ignore[reportUnknownMemberType]  # ends clients at work
            self._thread.join(END_SECONDS)


def places(clients: SimulatedClients) -> list[tuple[str, int]]:
    """Return the clients as a roster names them, in the order of their numbers."""
    return [(_name(client), 0) for client in range(len(clients.files))]
