"""Prints servers and devices for people."""

import time
from typing import Any

from rich.console import Console
from rich.table import Table

from leff.report.live import bytes_text


def print_server(console: Console, status: dict[str, Any]) -> None:
    """Print `network.status.server_status`."""
    state = "runs" if status["running"] else "does not run"
    console.print(f"{status['folder']} {state}, for devices at {status['address']}", soft_wrap=True)
    devices = Table(title="devices", title_justify="left", box=None, pad_edge=False)
    for column in ("", "name", "key", "state", "last seen", "examples", "layers", "memory"):
        devices.add_column(column)
    for device in status["devices"]:
        own: dict[str, Any] = device["capacity"] or {}
        memory = own.get("memory_bytes")
        devices.add_row(
            str(device["number"]),
            device["name"],
            device["key"],
            device["state"],
            ago(device["last_seen"]),
            "" if own.get("examples") is None else str(own["examples"]),
            str(own.get("layers") or ("all that fit" if own else "")),
            bytes_text(memory) if memory else "",
        )
    console.print(devices if status["devices"] else "no device is admitted yet")
    for device in status["devices"]:
        if device["refused"]:
            named = f"device {device['number']} ({device['name']})"
            console.print(f"{named} took no part: {device['refused']}", soft_wrap=True)
    for run in status["runs"]:
        console.print(f"run {run['folder']}: {run['state']}, round {run['round']}", soft_wrap=True)


def print_device(console: Console, status: dict[str, Any]) -> None:
    """Print `DeviceHome.summary`."""
    reason = f" ({status['reason']})" if status["reason"] else ""
    console.print(f"{status['home']}: {status['state']}{reason}", soft_wrap=True)
    console.print(f"federation {status['federation'][:8]} at {status['address']}", soft_wrap=True)
    console.print(f"{status['done']} asks answered since it started", soft_wrap=True)


def ago(seconds: float | None) -> str:
    """Return how long ago a time was, such as ``3 s ago``."""
    if seconds is None:
        return "never"
    gone = max(0.0, time.time() - seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if gone >= size:
            return f"{gone / size:.0f} {unit} ago"
    return f"{gone:.0f} s ago"
