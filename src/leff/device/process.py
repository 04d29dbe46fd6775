"""The device's process: connects, waits for asks, answers them, and does so for ever.

    run_device(home, settings)          # until SIGTERM or Ctrl-C

Two processes: this one does the work, and `watched` starts it again if it ends, whether a library
ended it, memory ran out, or somebody killed it.  The ask at work is on disk (`inbox.json`), so a
process that starts again goes on with it.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from leff.device.connection import (
    HEARTBEAT_SECONDS,
    Connection,
    FailedCallError,
    Message,
    NotAdmittedError,
)
from leff.device.fetch import Transfers
from leff.device.home import DeviceHome, check_server
from leff.device.settings import DeviceSettings
from leff.errors import LeffError, NetworkError
from leff.files import write_atomically
from leff.wire.asks import Answer
from leff.wire.json import to_json

POLL_SECONDS, IDLE_POLL_SECONDS = 0.1, 2.0  # between looks for an ask, soon and long after one
GROWTH = 1.2  # of the time between looks
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 15.0
TRIES = 3  # of a job, after which the process no longer tries: the job ends it
ANSWER_WAITS = (0.5, 2.0, 5.0)  # seconds after a try to answer at which the server failed
log = logging.getLogger("leff.device")


class DeviceLoop:
    """One device, from connection to connection."""

    def __init__(self, home: DeviceHome, settings: DeviceSettings, as_json: bool = False) -> None:
        """With `as_json`, each change of state is a line of JSON on standard output."""
        self._home, self._settings, self._as_json = home, settings, as_json
        self._address = home.joined().address
        self._transfers = Transfers(f"https://{self._address}", home.ca)
        self._session, self._worker = uuid.uuid4().hex, None
        self._connected = False  # since the last try
        self._status: dict[str, Any] = {"pid": os.getpid(), "address": self._address, "done": 0}

    def run(self) -> None:
        """Connect, answer, and connect again.  Raises LeffError for what only people can mend."""
        wait = RETRY_SECONDS
        while True:
            self._connected = False
            try:
                self._serve_connected()
            except NotAdmittedError:
                self._say(
                    "not admitted", f"on the server run: {self._home.admit_line(self._settings)}"
                )
            except NetworkError as error:
                self._say("not connected", str(error))
            wait = RETRY_SECONDS if self._connected else min(2 * wait, LONGEST_RETRY_SECONDS)
            time.sleep(wait)

    def _serve_connected(self) -> None:
        hello = self._transfers.hello()
        check_server(self._home, hello.leff, hello.flwr, hello.federation)
        off = hello.time - time.time()
        connection = Connection(self._address, self._home.ca, self._home.key(), off)
        try:
            self._home.remember_node(connection.open(self._home.node()))
            self._connected = True
            with _beating(connection) as lost:
                self._say("waiting")
                self._serve(connection, lost, off)
        finally:
            connection.close()

    def _serve(self, connection: Connection, lost: threading.Event, off: float) -> None:
        """Answer asks until the connection is lost; the server's clock is `off` ahead."""
        self._go_on(connection, off)
        wait = POLL_SECONDS
        while True:
            if lost.is_set():
                raise NotAdmittedError("the server no longer knows this device")
            message = connection.pull()
            if message is None:
                time.sleep(wait)
                wait = min(GROWTH * wait, IDLE_POLL_SECONDS)
                continue
            wait = POLL_SECONDS
            self._take(message, 1)
            self._do(connection, message, off)

    def _take(self, message: Message, tries: int) -> None:
        values = {"message": message.to_dict(), "tries": tries, "session": self._session}
        with suppress(OSError):  # on a full disk it is done all the same, but not after a kill
            write_atomically(self._home.inbox, json.dumps(values).encode())

    def _go_on(self, connection: Connection, off: float) -> None:
        """Finish the ask that a process before this one was at."""
        try:
            values = json.loads(self._home.inbox.read_text())
            message, tries = Message.from_dict(values["message"]), int(values["tries"])
            ended = values["session"] != self._session  # else the connection was lost
        except (OSError, ValueError, KeyError, TypeError):
            return
        if tries < TRIES or not ended:
            log.info("going on with an ask")
            self._take(message, tries + ended)
            self._do(connection, message, off)
            return
        log.error("gave up an ask that ended this process %d times", tries)
        given_up = Answer("report", refusal="its process ended while it did this job")
        self._answer(connection, message, to_json(given_up))

    def _do(self, connection: Connection, message: Message, off: float) -> None:
        age = max(0.0, time.time() + off - message.created_at)  # it may have waited for this device
        worker = self._worker_of_data()
        answer = worker.answer(message.text, time.monotonic() - age)
        self._answer(connection, message, answer)
        self._status["done"] += 1
        self._say("waiting", f"refused the last ask: {worker.refused}" if worker.refused else "")

    def _answer(self, connection: Connection, message: Message, answer: str) -> None:
        self._say("answering")
        for wait in ANSWER_WAITS:
            try:
                if not connection.answer(message, answer):
                    log.info("an answer was not taken: the run is over")
                break
            except FailedCallError as error:
                log.warning("an answer was not taken: %s", error)
                time.sleep(wait)
        self._home.inbox.unlink(missing_ok=True)  # what was done is kept for the next ask

    def _worker_of_data(self) -> Any:
        if self._worker is None:
            self._say("loading what it trains with")  # torch takes seconds
            from leff.device.work import worker_of

            self._worker = worker_of(
                self._home, self._settings, self._transfers, self._session, self._say
            )
        return self._worker

    def _say(self, state: str, reason: str = "") -> None:
        """Write what the device does now, and log a change of it."""
        if self._status.get("state") != state or self._status.get("reason") != reason:
            log.info("%s%s", state, f": {reason}" if reason else "")
            if self._as_json:
                print(json.dumps({"state": state, "reason": reason, "at": time.time()}), flush=True)
        self._status |= {"state": state, "reason": reason, "since": time.time()}
        with suppress(OSError):  # a full disk must not end the device
            write_atomically(self._home.status_file, json.dumps(self._status).encode())


class _beating:  # noqa: N801
    """Says that the node is there, from a thread of its own, while the body runs."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._stop, self._lost = connection, threading.Event(), threading.Event()

    def __enter__(self) -> threading.Event:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()
        return self._lost

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS / 2):
            try:
                self._connection.beat()
            except NotAdmittedError:
                self._lost.set()
                return
            except NetworkError:
                continue  # the loop finds out for itself


def run_device(home: DeviceHome, settings: DeviceSettings, as_json: bool = False) -> None:
    """Run the device in this process until it is asked to end."""
    DeviceLoop(home, settings, as_json).run()


def watched(home: DeviceHome, command: Sequence[str]) -> int:
    """Run a device's process, and start it again whenever it ends; return its exit status.

    It is not started again if this process is asked to end, or if it ended because of wrong use
    (exit status 2), which people must mend.  The command gets this process's id, to end with it:
    it may be gone before a process that starts slowly looks.

    Raises NetworkError if the device runs already.
    """
    child: subprocess.Popen[bytes] | None = None
    ending = threading.Event()

    def end(*_: object) -> None:
        ending.set()
        if child is not None:
            with suppress(ProcessLookupError):
                child.terminate()

    with home.lock():
        before = {each: signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            wait = RETRY_SECONDS
            while True:
                started = time.monotonic()
                child = subprocess.Popen([*command, str(os.getpid())], stdin=subprocess.DEVNULL)
                if ending.is_set():  # the signal came while it was started
                    child.terminate()
                status = child.wait()
                if ending.is_set():
                    log.info("the device has ended, as it was asked to")
                    return 0
                if status == 2:
                    return status
                steady = time.monotonic() - started > LONGEST_RETRY_SECONDS
                wait = RETRY_SECONDS if steady else min(2 * wait, LONGEST_RETRY_SECONDS)
                log.error("the device's process ended with status %d; it starts again", status)
                if ending.wait(wait):
                    return 0
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def main(arguments: Sequence[str]) -> int:
    """The work of the watched process: ``HOME SETTINGS json|text PARENT``, the settings as JSON."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("httpx", "httpcore", "flwr"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    _end_with(int(arguments[3]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the watching process ends this
    signal.signal(signal.SIGTERM, _end)
    try:
        home = DeviceHome.open(Path(arguments[0]))
        settings = DeviceSettings.model_validate_json(arguments[1])
        run_device(home, settings, as_json=arguments[2] == "json")
    except LeffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _end(*_: object) -> None:
    os._exit(0)  # what is done is on the disk, and the server notices that nobody is there


def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
