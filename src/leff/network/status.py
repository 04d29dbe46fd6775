"""What a server knows of its devices and runs, for `leff server status`.

server_status(folder, settings)["devices"][0]["state"]      # "online"
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from leff.network.folder import ServerFolder, ServerSettings
from leff.network.registry import AdmittedDevice, Registry
from leff.network.superlink import Control, LinkLostError, Node
from leff.units import BYTES, parse_amount, parse_speed


def server_status(folder: ServerFolder, settings: ServerSettings) -> dict[str, Any]:
    """Return the server's state, its devices and its runs, as JSON values.

    A device's ``state`` is ``online``, ``offline``, ``admitted`` (it never came) or ``unknown``
    (the server does not run).  ``refused`` says why it took no part in the last run that asked it,
    and is None if it did.  ``capacity`` is its last report in a run, or else what it measured when
    it joined.
    """
    state = folder.running()
    nodes: dict[bytes, Node] | None = None
    if state is not None:
        address, ca = f"127.0.0.1:{settings.link_port}", folder.ca.read_bytes()
        with suppress(LinkLostError), Control(address, ca) as control:
            nodes = control.nodes()
    return {
        "folder": str(folder.path),
        "address": settings.address,
        "federation": settings.federation,
        "running": state is not None,
        "processes": {} if state is None else state["processes"],
        "devices": [
            {
                "key": device.fingerprint,
                "name": device.name,
                "number": device.number,
                **_seen(nodes, device.pem),
                "refused": _noted(folder, device.fingerprint).get("refused"),
                "capacity": _report(folder, device.fingerprint) or _on_joining(device),
            }
            for device in Registry(folder.path / "devices.json").devices()
        ],
        "runs": _runs(folder),
    }


def _seen(nodes: dict[bytes, Node] | None, key: bytes) -> dict[str, Any]:
    if nodes is None:
        return {"state": "unknown", "last_seen": None}
    node = nodes.get(key)
    if node is None or node.last_seen is None:
        return {"state": "admitted", "last_seen": None}
    return {"state": "online" if node.online else "offline", "last_seen": node.last_seen}


def _noted(folder: ServerFolder, fingerprint: str) -> dict[str, Any]:
    """Return what the last run noted of a device: its report, or why it took no part."""
    with suppress(OSError, ValueError):
        return json.loads((folder.path / "reports" / f"{fingerprint}.json").read_text())
    return {}


def _report(folder: ServerFolder, fingerprint: str) -> dict[str, Any] | None:
    with suppress(KeyError):
        report: dict[str, Any] = _noted(folder, fingerprint)["report"]
        own: dict[str, Any] = report["device"] or {}
        return {
            "clients": len(report["shares"]),
            "examples": sum(share["examples"] for share in report["shares"]),
            "layers": report["layers"],
            "memory_bytes": report["memory_bytes"],
            "flops_per_second": own.get("flops_per_second"),
            "device": own or None,
            "leff": report["leff"],
        }
    return None


def _on_joining(device: AdmittedDevice) -> dict[str, Any] | None:
    """Return what a device measured when it joined, as its owner passed it on."""
    if not device.memory:
        return None
    return {
        "clients": None,
        "examples": None,
        "layers": None,
        "memory_bytes": parse_amount(device.memory, BYTES),
        "flops_per_second": parse_speed(device.speed) if device.speed else None,
        "device": None,
        "leff": None,
    }


def _runs(folder: ServerFolder) -> list[dict[str, Any]]:
    """Return the runs that used this server, the newest first."""
    runs: list[dict[str, Any]] = []
    for path in (folder.path / "runs").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            values: dict[str, Any] = json.loads(path.read_text())
            finished = (Path(values["folder"]) / "result.json").exists()
            state = "running" if psutil.pid_exists(values["pid"]) else "interrupted"
            runs.append({**values, "state": "finished" if finished else state})
    return sorted(runs, key=lambda run: -run["since"])
