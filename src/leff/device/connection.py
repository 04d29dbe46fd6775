"""A device's connection to Flower's SuperLink: it polls for messages and answers them.

    connection = Connection("leff.example.org:9443", ca_file, key, seconds_off=0.0)
    node = connection.open(known=None)                # what the SuperLink calls this key
    message = connection.pull()                       # Message, or None if there is none
    connection.answer(message, "a text")

This is Flower's node-side interface, without Flower's SuperNode: a SuperNode installs and runs code
that the server sends, and starts a process for each message.  This device runs its own code only.

A node that was there before need not wait until the SuperLink has noticed that it was gone: a
heartbeat under its node id is enough.  Answers take their times from the message, and signatures
from the server's clock (`seconds_off`), so a device's wrong clock does no harm.

This module, `leff.network.superlink` and `leff.wire.flower_texts` alone use parts of flwr that are
not public, of exactly the version 1.42.0.
"""

import datetime
import logging
import os
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leff.errors import NetworkError
from leff.wire.flower_texts import Arriving, record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

UNAUTHORIZED, SERVER_ERROR = 401, 500  # answers of HTTP
HEARTBEAT_SECONDS = 15  # told to the SuperLink, which counts a node as gone after two of them


class NotAdmittedError(NetworkError):
    """The server does not know this device's key."""


class UnreachableError(NetworkError):
    """The server is away, or the network is."""


class FailedCallError(UnreachableError):
    """The SuperLink failed at a call, as it does for an answer to a run that it has forgotten."""


@dataclass(frozen=True)
class Message:
    """A text from the server, and what an answer to it needs; plain values, so it can be kept."""

    text: str
    id: str
    run: int
    node: int
    server: int
    created_at: float
    seconds: float  # in which it can be answered

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Message":
        return cls(**values)


class Connection:
    """Calls of a node to the SuperLink.  Not for several threads, but for `beat`."""

    def __init__(
        self, address: str, ca_file: Path, key: "EllipticCurvePrivateKey", seconds_off: float = 0.0
    ) -> None:
        """`seconds_off` is what the server's clock is ahead of this device's."""
        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes
        from flwr.supernode.fleet_http_client import FleetHttpClient

        self._public = public_key_to_bytes(key.public_key())
        self._client = FleetHttpClient.from_server_address(
            address,
            False,
            ca_file.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                _Signature(key, self._public, seconds_off),
            ],
        )
        self._node: Any = None
        self._arriving: tuple[Any, Arriving] | None = None

    def open(self, known: int | None) -> int:
        """Become present, and return the node id; `known` is the one of before.

        Raises NotAdmittedError for a key that the server does not know, and UnreachableError
        without a server.
        """
        from flwr.proto.fleet_pb2 import ActivateNodeRequest
        from flwr.proto.node_pb2 import Node

        if known is not None:
            self._node = Node(node_id=known)
            try:
                self.beat()
                return known
            except NotAdmittedError:  # the SuperLink lost its state, and the key has a new node id
                pass
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        try:
            answer = self._call(self._client.ActivateNode, request)
        except RefusedCallError:  # so it is too while another process has just used the key
            raise NotAdmittedError("the server does not know this device's key") from None
        self._node = Node(node_id=answer.node_id)
        return answer.node_id

    def beat(self) -> None:
        """Say that this node is there."""
        from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        answer = self._call(self._client.SendNodeHeartbeat, request)
        if not answer.success:
            raise NotAdmittedError("the server no longer knows this device")

    def pull(self) -> Message | None:
        """Return the next message whose text is here, or None."""
        from flwr.common.serde import message_from_proto
        from flwr.proto.fleet_pb2 import PullMessagesRequest

        if self._arriving is None:
            answer = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
            if not answer.messages_list:
                return None
            about = message_from_proto(answer.messages_list[0]).metadata
            self._arriving = about, Arriving(about.run_id, answer.message_object_trees[0])
        about, arriving = self._arriving
        try:
            if not arriving.fetch(lambda name: self._object(arriving.run, name)):
                return None
            self._confirm(arriving)
        except RefusedCallError:  # the run is over
            self._arriving = None
            return None
        self._arriving, text = None, arriving.text
        if text is None:
            return None
        return Message(
            text=text,
            id=about.message_id,
            run=about.run_id,
            node=self._node.node_id,
            server=about.src_node_id,
            created_at=about.created_at,
            seconds=about.ttl,
        )

    def _object(self, run: int, name: str) -> bytes | None:
        from flwr.proto.message_pb2 import PullObjectRequest

        request = PullObjectRequest(node=self._node, run_id=run, object_id=name)
        answer = self._call(self._client.PullObject, request)
        if not answer.object_found:
            raise RefusedCallError("the server no longer has the message")
        return answer.object_content if answer.object_available else None

    def _confirm(self, message: Arriving) -> None:
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest

        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=message.run, message_object_id=message.id
        )
        self._call(self._client.ConfirmMessageReceived, request)

    def answer(self, message: Message, text: str) -> bool:
        """Answer a message; return False if the run is over.  Answering twice does no harm."""
        from flwr.common.serde import message_to_proto
        from flwr.proto.fleet_pb2 import PushMessagesRequest
        from flwr.proto.message_pb2 import PushObjectRequest
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            get_object_tree,
            no_object_id_recompute,
        )

        with no_object_id_recompute():
            reply, bare = _reply(message, text)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(bare)],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.0],
            )
            objects = get_all_nested_objects(reply)
            try:
                stored = self._call(self._client.PushMessages, request)
                for name in stored.objects_to_push:
                    pushed = PushObjectRequest(
                        node=self._node,
                        run_id=message.run,
                        session_id=stored.session_id,
                        object_id=name,
                        object_content=objects[name].deflate(),
                    )
                    if not self._call(self._client.PushObject, pushed).stored:
                        raise FailedCallError("the server lost a part of an answer")
            except RefusedCallError:
                return False
        return True

    def close(self) -> None:
        """Say goodbye, if the server is there, and let go."""
        from flwr.proto.fleet_pb2 import DeactivateNodeRequest

        try:
            if self._node is not None:
                request = DeactivateNodeRequest(node_id=self._node.node_id)
                self._call(self._client.DeactivateNode, request)
        except NetworkError:
            pass
        self._client.close()

    def _call(self, method: Any, request: Any) -> Any:
        import httpx

        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status == UNAUTHORIZED:
                raise NotAdmittedError("the server does not know this device's key") from None
            if status == SERVER_ERROR:
                raise FailedCallError("the server failed at a call (500)") from None
            if status > SERVER_ERROR:
                raise UnreachableError(f"the server is not ready ({status})") from None
            raise RefusedCallError(f"the server refused a call ({status})") from None
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the server cannot be reached ({type(error).__name__})"
            ) from None


class RefusedCallError(NetworkError):
    """The SuperLink refused a call: its run is over, or it wants something else."""


def _reply(message: Message, text: str) -> tuple[Any, Any]:
    """Return the answer with its content, and as it is announced, without."""
    from flwr.app import RecordDict
    from flwr.app.message import make_message
    from flwr.app.metadata import Metadata

    about = Metadata(
        run_id=message.run,
        message_id="",
        src_node_id=message.node,
        dst_node_id=message.server,
        reply_to_message_id=message.id,
        group_id="",
        created_at=message.created_at + 1e-3,
        ttl=message.seconds - 2e-3,
        message_type="train",
    )
    whole = make_message(metadata=about, content=record(text))
    return whole, make_message(metadata=about, content=RecordDict())


class _Signature:
    """Signs every call with the device's key, as the SuperLink asks."""

    def __init__(self, key: "EllipticCurvePrivateKey", public: bytes, seconds_off: float) -> None:
        self._key, self._public = key, b64encode(public).decode("ascii")
        self._off = seconds_off

    def intercept(self, context: Any, call_next: Any) -> Any:
        from flwr.common.constant import TIMESTAMP_HEADER
        from flwr.supercore.constant import (
            FLEET_HTTP_PUBLIC_KEY_HEADER,
            FLEET_HTTP_SIGNATURE_HEADER,
        )
        from flwr.supercore.interceptors.http.utils import add_headers
        from flwr.supercore.primitives.asymmetric import sign_message

        now = time.time() + self._off
        at = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat()
        signature = b64encode(sign_message(self._key, at.encode("ascii"))).decode("ascii")
        add_headers(
            context.request,
            {
                FLEET_HTTP_PUBLIC_KEY_HEADER: self._public,
                TIMESTAMP_HEADER: at,
                FLEET_HTTP_SIGNATURE_HEADER: signature,
            },
        )
        return call_next(context)
