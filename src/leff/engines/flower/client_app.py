"""A ClientApp for those who run Flower's own SuperNodes; it uses Flower's public interface alone.

    leff device join join.json --home /data/leff        # and the owner admits its key
    flower-supernode --superlink HOST:PORT --root-certificates /data/leff/ca.crt \\
        --auth-supernode-private-key /data/leff/key --node-config 'leff-home="/data/leff"'

A SuperNode installs and runs code that the server sends, and starts a process for each message.
`leff device start` does neither.  So this is for nodes that serve other Flower apps too, and only
where the node's own configuration names the device's folder.
"""

import contextlib
import logging
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from leff.errors import LeffError, NetworkError
from leff.wire.asks import Answer
from leff.wire.flower_texts import KEY, record
from leff.wire.json import to_json

if TYPE_CHECKING:
    from leff.device.home import DeviceHome

app = ClientApp()
HOME = "leff-home"  # in the SuperNode's configuration
LOOK_SECONDS = 0.5  # between looks whether another process of the device has ended
log = logging.getLogger("leff.device")


@app.train()
def answer(message: Message, context: Context) -> Message:
    """Answer an ask as the device whose folder the SuperNode's configuration names."""
    until = time.monotonic() + message.metadata.ttl
    home = context.node_config.get(HOME)
    if isinstance(home, str):
        text = _answered(Path(home), str(message.content.config_records[KEY][KEY]), until)
    else:
        text = _refusal(f"this SuperNode has no {HOME} in its node-config")
    return Message(record(text), reply_to=message)


def _answered(folder: Path, ask: str, until: float) -> str:
    """Return a device's answer.  Of a device's processes one works at a time."""
    from leff.device.fetch import Transfers
    from leff.device.home import DeviceHome, check_server
    from leff.device.work import worker_of

    received = time.monotonic()
    try:
        home = DeviceHome.open(folder.expanduser())
        settings, address = home.settings(), home.joined().address
        with _turn(home, until), Transfers(f"https://{address}", home.ca) as transfers:
            hello = transfers.hello()
            check_server(home, hello.leff, hello.flwr, hello.federation)
            return worker_of(home, settings, transfers, uuid.uuid4().hex).answer(ask, received)
    except LeffError as error:
        log.error("%s", error)
        return _refusal("this SuperNode's device cannot work; its own log says why")


@contextlib.contextmanager
def _turn(home: "DeviceHome", until: float) -> Generator[None]:
    """Wait until no other process of the device runs.  NetworkError if one does at the end."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(home.lock())
                break
            except NetworkError:
                if time.monotonic() > until:
                    raise
                time.sleep(LOOK_SECONDS)
        yield


def _refusal(reason: str) -> str:
    return to_json(Answer("report", refusal=reason))
