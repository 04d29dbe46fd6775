"""Flower's SuperLink, as our server uses it: its process, its nodes, and messages to them.

    with Control(address, ca) as control:
        control.register(key)                       # admit a device
    link = Link(address, ca, secret)                # a run of ours at the SuperLink
    sent = link.push([(node, "a text")], seconds=600)
    link.pull(sent)                                 # [(message, the answer)]

A SuperLink stores small messages for nodes that poll it, and knows which nodes are there.  Flower
starts a ServerApp as a process for each run.  Ours is this process itself: `Link` starts a run,
takes its task, and pushes and pulls messages as a ServerApp would.  So there is no SuperExec and no
app to install, and the loop outlives the SuperLink.

This module, `leff.device.connection` and `leff.wire.flower_texts` alone use parts of flwr that are
not public, of exactly the version `VERSION`.  `tests/network/test_flower_contract.py` holds them.
"""

import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from leff.errors import NetworkError
from leff.extras import advice
from leff.wire.flower_texts import Arriving, record

VERSION = "1.42.0"
HEARTBEAT_SECONDS = 10.0  # a SuperLink gives up a task after 60 without one
NOT_READY = (429, 502, 503, 504)  # answers of HTTP after which a call is tried again
PATIENCE_SECONDS = 20.0  # how long a call is tried again before the link counts as lost
APP = {
    "pyproject.toml": b"""[project]
name = "leff"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "leff"
[tool.flwr.app.components]
serverapp = "leff_app:server"
clientapp = "leff_app:client"
[tool.flwr.app.config]
""",
    "leff_app/__init__.py": b"from leff.engines.flower.client_app import app as client\n"
    b"server = None  # the run's own process is the ServerApp\n",
}
T = TypeVar("T")
log = logging.getLogger("leff.network")


@dataclass(frozen=True)
class Node:
    """A device as the SuperLink knows it; `last_seen` is in seconds since 1970."""

    id: int
    online: bool
    last_seen: float | None


class LinkLostError(NetworkError):
    """The SuperLink is away, or no longer knows the run."""


def check_version() -> None:
    """Raise NetworkError unless flwr is installed in the version that this module was made for."""
    try:
        found = metadata.version("flwr")
    except metadata.PackageNotFoundError:
        raise NetworkError(
            f"flwr is not installed; install it with {advice('flwr')} ({VERSION})"
        ) from None
    if found != VERSION:
        raise NetworkError(
            f"flwr {found} is installed, and this leff works with {VERSION} only; "
            f"pip install flwr=={VERSION}"
        )


def environment(home: Path) -> dict[str, str]:
    """Return the variables under which Flower's programs run: no telemetry, no installing."""
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


def command(
    port: int, ca: Path, certificate: Path, key: Path, database: Path, secret: Path
) -> list[str]:
    """Return the command of a SuperLink on loopback, whose state outlives its process."""
    program = Path(sys.executable).with_name("flower-superlink")
    return [
        str(program),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-ca-certfile", str(ca), "--ssl-certfile", str(certificate)),
        *("--ssl-keyfile", str(key), "--database", str(database)),
        *("--superexec-auth-secret-file", str(secret)),
        *("--enable-supernode-auth", "--isolation", "process"),
        "--disable-runtime-dependency-installation",
    ]


def _quiet() -> None:
    """Keep flwr from sending telemetry and from printing; what matters is raised or logged here."""
    os.environ.update(environment(Path(os.environ.get("FLWR_HOME", "/nonexistent"))))
    import flwr.supercore.logger  # it sets levels when it is imported

    logging.getLogger(flwr.supercore.logger.FLOWER_LOGGER.name).setLevel(logging.CRITICAL)


class Control:
    """Registers devices' keys at the SuperLink, and starts runs."""

    def __init__(self, address: str, ca: bytes) -> None:
        _quiet()
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        self._client = ControlHttpClient.from_server_address(
            address, False, ca, interceptors=[RuntimeVersionHttpInterceptor(component_name="leff")]
        )

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def nodes(self) -> dict[bytes, Node]:
        """Return every registered node by its key (PEM).  LinkLostError without a SuperLink."""
        from flwr.proto.control_pb2 import ListNodesRequest

        answer = _tried(lambda: self._client.ListNodes(ListNodesRequest()))
        return {
            each.public_key: Node(
                each.node_id,
                each.status == "online",
                each.online_until - 2 * each.heartbeat_interval if each.online_until else None,
            )
            for each in answer.nodes_info
            if each.status != "unregistered"
        }

    def register(self, key: bytes) -> int:
        """Register a public key (PEM) and return its node id."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        return _tried(
            lambda: self._client.RegisterNode(RegisterNodeRequest(public_key=key))
        ).node_id

    def unregister(self, node: int) -> None:
        """Forget a node."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        _tried(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node)))

    def start_run(self) -> int:
        """Start a run, which waits for its ServerApp, and return its id."""
        from flwr.cli.build import build_fab_from_files
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.fab_pb2 import Fab

        app, _ = build_fab_from_files(APP)
        fab = Fab(hash_str=hashlib.sha256(app).hexdigest(), content=app)
        return _tried(lambda: self._client.StartRun(StartRunRequest(fab=fab))).run_id


class Link:
    """A run at the SuperLink, with this process as its ServerApp.  One is open in a process."""

    def __init__(self, address: str, ca: bytes, secret: bytes, lock: Callable[[], Any]) -> None:
        """`secret` lets this process take a run's task; `lock` keeps others from taking it."""
        _quiet()
        self._address, self._ca = address, ca
        with lock(), Control(address, ca) as control:
            self.run = control.start_run()
            token = self._take(secret)
        self._grid = self._joined(token)
        self._stop = threading.Event()
        self._lost = False
        self._arriving: dict[str, Arriving] = {}
        threading.Thread(target=self._beat, name="flower-heartbeat", daemon=True).start()

    def _take(self, secret: bytes) -> str:
        """Take the run's task; return the token of its ServerApp."""
        from flwr.proto.runtime_pb2 import AcquireTaskRequest
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
        from flwr.supercore.interceptors.http.superexec_auth import SuperExecAuthHttpInterceptor
        from flwr.supercore.runtime import RuntimeHttpClient
        from flwr.supercore.superexec.run_superexec import (
            _SUPEREXEC_AUTH_METHODS,  # pyright: ignore[reportPrivateUsage]
        )

        client = RuntimeHttpClient.from_server_address(
            self._address,
            False,
            self._ca,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="leff"),
                SuperExecAuthHttpInterceptor(
                    master_secret=secret, protected_methods=_SUPEREXEC_AUTH_METHODS
                ),
            ],
            retry_invoker=_patient(),
        )
        try:
            for _ in range(100):  # runs that were started and never taken come first
                request = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
                answer = _tried(lambda: client.AcquireTask(request))  # noqa: B023
                if answer.token and answer.task.run_id == self.run:
                    return answer.token
                if not answer.token:
                    break
        finally:
            client.close()
        raise LinkLostError("the SuperLink has no task for the run that was just started")

    def _joined(self, token: str) -> Any:
        from flwr.common.serde import run_from_proto
        from flwr.proto.runtime_pb2 import PullTaskInputRequest
        from flwr.supercore.task_identity import TaskIdentity
        from flwr.superlink.grid import HttpGrid

        grid = HttpGrid(self._address, False, self._ca, token=token)
        grid._retry_invoker = _patient()  # pyright: ignore[reportPrivateUsage]
        self._client = grid._runtime_client  # pyright: ignore[reportPrivateUsage]
        task = _tried(lambda: self._client.PullTaskInput(PullTaskInputRequest()))
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        grid.set_run(run_from_proto(task.run))
        return grid

    def _beat(self) -> None:
        from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                answer = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except Exception:  # the SuperLink may come back; a call finds out whether it knows us
                continue
            self._lost = self._lost or not answer.success

    def nodes(self) -> set[int]:
        """Return the ids of the nodes that are there now."""
        return set(self._call(self._grid.get_node_ids))

    def push(self, texts: Sequence[tuple[int, str]], seconds: float) -> dict[str, int]:
        """Send texts to nodes, which may answer for some seconds; return the texts' places by id.

        A text that the SuperLink does not take is left out.
        """
        from flwr.app import Message

        messages = [Message(record(text), node, "train", ttl=seconds) for node, text in texts]
        ids = self._call(lambda: list(self._grid.push_messages(messages)))
        return {name: place for place, name in enumerate(ids) if name}

    def pull(self, messages: Collection[str]) -> list[tuple[str, str | None]]:
        """Return the answers that are here to these messages; None for one that is lost.

        An answer that was announced and is not here yet holds up no other.
        """
        from flwr.proto.runtime_pb2 import PullAppMessagesRequest

        lost: list[tuple[str, str | None]] = []
        self._arriving = {asked: a for asked, a in self._arriving.items() if asked in messages}
        expected = [asked for asked in messages if asked not in self._arriving]
        if expected:
            request = PullAppMessagesRequest(message_ids=expected)
            answer = self._call(lambda: self._client.PullMessages(request))
            pairs = zip(answer.messages_list, answer.message_object_trees, strict=True)
            for proto, tree in pairs:
                asked = proto.metadata.reply_to_message_id
                if proto.HasField("error"):
                    log.debug("a message was lost: %s", proto.error.reason)
                    lost.append((asked, None))
                else:
                    self._arriving[asked] = Arriving(self.run, tree)
        here = {asked: each for asked, each in self._arriving.items() if each.fetch(self._object)}
        for asked, each in here.items():
            del self._arriving[asked]
            self._confirm(each)
        return [*lost, *((asked, each.text) for asked, each in here.items())]

    def _object(self, name: str) -> bytes | None:
        from flwr.proto.message_pb2 import PullObjectRequest

        request = PullObjectRequest(node=self._grid.node, run_id=self.run, object_id=name)
        answer = self._call(lambda: self._client.PullObject(request))
        return answer.object_content if answer.object_available else None

    def _confirm(self, message: Arriving) -> None:
        """Let the SuperLink forget a message."""
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest

        request = ConfirmMessageReceivedRequest(
            node=self._grid.node, run_id=self.run, message_object_id=message.id
        )
        self._call(lambda: self._client.ConfirmMessageReceived(request))

    def close(self, completed: bool = True) -> None:
        """End the run at the SuperLink, if that is there."""
        from flwr.common.constant import SubStatus
        from flwr.proto.runtime_pb2 import PushTaskOutputRequest

        self._stop.set()
        status = SubStatus.COMPLETED if completed else SubStatus.FAILED
        self._grid._retry_invoker.max_tries = 1
        try:
            self._client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=""))
        except Exception as error:  # the run ends there without it, a minute later
            log.debug("the SuperLink was not told of the end: %s", error)
        self._grid.close()

    def _call(self, function: Callable[[], T]) -> T:
        if self._lost:
            raise LinkLostError("the SuperLink no longer knows this run")
        return _tried(function)


def _patient() -> Any:
    """Return what tries calls again.

    Flower's own rule ends this process if the SuperLink does not know its token, as after a loss of
    the database.  Here any refusal is raised, and the run begins a new link.
    """
    from flwr.supercore.retry import make_simple_http_retry_invoker

    invoker = make_simple_http_retry_invoker()
    invoker.max_time, invoker.should_giveup = PATIENCE_SECONDS, _refused
    return invoker


def _refused(error: Exception) -> bool:
    import httpx

    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in NOT_READY


def _tried(function: Callable[[], T]) -> T:
    """Call the SuperLink.  LinkLostError if it is away, or refuses or loses what it is asked."""
    import httpx
    from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

    try:
        return function()
    except httpx.HTTPStatusError as error:
        raise LinkLostError(
            f"the SuperLink refused a call ({error.response.status_code})"
        ) from None
    except ObjectPushError:  # it was started again in the middle of a message
        raise LinkLostError("the SuperLink lost a part of a message") from None
    except httpx.HTTPError as error:
        raise LinkLostError(f"the SuperLink is not there ({type(error).__name__})") from None
