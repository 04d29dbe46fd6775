"""The network of a server that `leff server start` runs: SuperLink, gateway and registry.

network = ServerNetwork(*find_server(None), run, run_folder)
network.present()            # {node id: Member(key, number)}
"""

import json
import logging
import math
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from leff.engines.flower.seam import Member
from leff.errors import RunError
from leff.files import make_folder, write_atomically
from leff.network.folder import ServerFolder, ServerSettings
from leff.network.grants import Grant, Grants, Traffic
from leff.network.registry import Registry
from leff.network.superlink import Link, LinkLostError
from leff.wire.asks import DeviceReport
from leff.wire.json import to_json

log = logging.getLogger("leff.network")
RETRY_SECONDS = 1.0
START_SECONDS = 60.0  # that a resumed run waits for a server that is being started too


class ServerNetwork:
    """Implements `seam.Network`; the link is opened when it is first used."""

    def __init__(
        self, folder: ServerFolder, settings: ServerSettings, run: str, run_folder: Path
    ) -> None:
        """`run` is the run's name on the network.  One that is resumed waits for the server."""
        self._folder, self._settings, self._run = folder, settings, run
        self._run_folder = run_folder
        self._grants = Grants(folder.grants, folder.token_secret.read_bytes())
        self._link: Link | None = None
        self._lost = ""  # what was last said of a lost link
        resumed = (run_folder / "rounds.jsonl").exists()
        self._patient_until = time.monotonic() + START_SECONDS if resumed else 0.0
        self.federation = settings.federation

    def working(self, round: int) -> None:
        values = {"run": self._run, "folder": str(self._run_folder.absolute()), "pid": os.getpid()}
        values |= {"round": round, "since": time.time()}
        with suppress(OSError):
            make_folder(self._folder.path / "runs")
            path = self._folder.path / "runs" / f"{self._run}.json"
            write_atomically(path, json.dumps(values).encode())

    def present(self) -> dict[int, Member]:
        admitted = Registry(self._folder.path / "devices.json").devices()
        nodes: dict[str, int] = {}
        with suppress(OSError, ValueError, KeyError):
            nodes = json.loads((self._folder.path / "nodes.json").read_text())["nodes"]
        try:
            online = self._open().nodes()
        except LinkLostError as error:
            self.lost(error)
            return {}
        members = {
            nodes[device.fingerprint]: Member(device.fingerprint, device.number, device.name)
            for device in admitted
            if device.fingerprint in nodes
        }
        return {node: member for node, member in members.items() if node in online}

    def push(self, texts: Sequence[tuple[int, str]], seconds: float) -> dict[str, int]:
        return self._open().push(texts, seconds)

    def pull(self, messages: Collection[str]) -> list[tuple[str, str | None]]:
        return self._open().pull(messages)

    def lost(self, error: LinkLostError) -> None:
        if str(error) != self._lost:
            log.warning("%s; trying again", error)
            self._lost = str(error)
        if self._link is not None:
            self._link.close(completed=False)
            self._link = None
        time.sleep(RETRY_SECONDS)

    def issue(self, grant: Grant) -> str:
        return self._grants.issue(grant)

    def revoke(self, token: str) -> None:
        self._grants.revoke(token)

    def traffic(self, token: str) -> Traffic:
        return self._grants.traffic(token)

    def reported(self, key: str, report: DeviceReport) -> None:
        self._note(key, {"report": json.loads(to_json(report))})

    def refused(self, key: str, why: str) -> None:
        self._note(key, {"refused": why})

    def _note(self, key: str, values: dict[str, Any]) -> None:
        with suppress(OSError):
            make_folder(self._folder.path / "reports")
            path = self._folder.path / "reports" / f"{key}.json"
            write_atomically(path, json.dumps({"seen": time.time(), **values}).encode())

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _open(self) -> Link:
        if self._link is None:
            if self._folder.running() is None:
                if time.monotonic() < self._patient_until:
                    raise LinkLostError(f"the server of {self._folder.path} is not running")
                raise RunError(
                    f"the server of {self._folder.path} is not running; start it with "
                    f"`leff server start {self._folder.path}`, then `leff resume` goes on"
                )
            self._link = Link(
                f"127.0.0.1:{self._settings.link_port}",
                self._folder.ca.read_bytes(),
                self._folder.link_secret.read_bytes(),
                lambda: self._folder.lock("link"),
            )
            self._patient_until, self._lost = math.inf, ""  # from now on it goes on for ever
        return self._link
