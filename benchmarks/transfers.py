"""Transfers through the real gateway with TLS, on loopback: MB/s, and the server's peak memory.

    .venv/bin/python -m benchmarks.transfers --json

The gateway is a process of its own.  One device fetches a part of 1 GB and sends an update of as
many bytes.  Then eight devices, each a process, do both with 200 MB at once.  `--sizes` and
`--devices` change that.  Devices neither train nor look at tensors; they check digests, as ever.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from leff.device.cache import PartCache
from leff.device.fetch import Transfers
from leff.files import file_digest
from leff.network import certificates
from leff.network.gateway import listening
from leff.network.grants import Grant, Grants
from leff.network.settings import SETTINGS, GatewaySettings
from leff.wire.messages import Part

SIZES, DEVICES = (10**9, 200 * 10**6), 8


class Server:
    """A gateway as a process, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        certificates.make_authority(folder)
        certificates.make_certificate(folder, ["localhost"])
        (folder / "secret").write_bytes(os.urandom(32))
        (folder / "parts").mkdir()
        with listening("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        self.url, self.authority = f"https://localhost:{port}", folder / certificates.AUTHORITY
        settings = GatewaySettings(
            host="127.0.0.1",
            port=port,
            certificate=folder / certificates.CERTIFICATE,
            key=folder / certificates.CERTIFICATE_KEY,
            grants=folder / "grants",
            secret=folder / "secret",
            federation=certificates.federation_id(self.authority),
            superlink="http://127.0.0.1:1",
            log=folder / "gateway.log",
        )
        (folder / SETTINGS).write_text(json.dumps({"gateway": settings.as_json()}))
        self.grants = Grants(settings.grants, settings.secret.read_bytes())

    def __enter__(self) -> "Server":
        command = [sys.executable, "-m", "leff.network.gateway", str(self.folder)]
        self.process = subprocess.Popen(command)
        with Transfers(self.url, self.authority) as transfers:
            while True:
                try:
                    transfers.hello()
                    return self
                except Exception:
                    if self.process.poll() is not None:
                        raise
                    time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def part(self, size_bytes: int) -> Part:
        """Store random bytes as a part."""
        path, found = self.folder / "parts" / "new", hashlib.sha256()
        with path.open("wb") as file:
            for first in range(0, size_bytes, 2**20):
                piece = os.urandom(min(2**20, size_bytes - first))
                found.update(piece)
                file.write(piece)
        path.rename(path.with_name(found.hexdigest()))
        return Part(found.hexdigest(), size_bytes)

    def token(self, device: str, part: Part) -> str:
        """The token of a device's grant to fetch a part and to send as much."""
        return self.grants.issue(
            Grant(
                device,
                "benchmark",
                {part.digest: part.size_bytes},
                self.folder / "parts",
                part.size_bytes,
                self.folder / f"spool-{device}",
                time.time() + 3600,
            )
        )

    def memory(self, name: str) -> int:
        """Return VmHWM (the peak) or VmRSS of the gateway, in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def device(url: str, authority: Path, folder: Path, digest: str, size: int, token: str) -> Any:
    """Fetch a part and send it back as an update; return the seconds of both."""
    part, cache = Part(digest, size), PartCache(folder, 2 * size)
    with Transfers(url, authority) as transfers:
        started = time.perf_counter()
        transfers.fetch(part, token, cache)
        fetched = time.perf_counter()
        transfers.upload(cache.path(part), digest, token)
        return {"get": fetched - started, "put": time.perf_counter() - fetched}


def together(server: Server, devices: int, size_bytes: int) -> dict[str, Any]:
    """Let devices transfer at once, each in a process; return MB/s over all of them, and memory."""
    part = server.part(size_bytes)
    before = server.memory("VmRSS")
    processes = []
    for number in range(devices):
        folder, token = server.folder / f"device-{number}", server.token(str(number), part)
        side = [server.url, server.authority, folder, part.digest, size_bytes, token]
        command = [sys.executable, "-m", "benchmarks.transfers", "--side", *map(str, side)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    seconds = [json.loads(process.communicate()[0]) for process in processes]
    for number in range(devices):
        whole = server.folder / f"spool-{number}" / part.digest
        if file_digest(whole) != part.digest:
            raise RuntimeError(f"{whole} is not what was sent")
        whole.unlink()
    total = devices * size_bytes / 1e6
    rates = {
        f"{way}_mb_per_second": total / max(found[way] for found in seconds)
        for way in ("get", "put")
    }
    peak = server.memory("VmHWM")
    return {"devices": devices, "size_bytes": size_bytes, **rates} | {
        "server_before_bytes": before,
        "server_peak_bytes": peak,
    }


def main() -> None:
    """Print one row for one device, and one for many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES)
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", nargs=6, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        url, authority, folder, digest, size, token = asked.side
        found = device(url, Path(authority), Path(folder), digest, int(size), token)
        print(json.dumps(found))
        return
    rows = []
    for devices, size in zip((1, asked.devices), asked.sizes, strict=True):
        with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server:
            rows.append(together(server, devices, size))
    if asked.json:
        print(json.dumps(rows))
        return
    print(f"{'devices':>8}{'MB':>7}{'GET MB/s':>10}{'PUT MB/s':>10}{'server MB':>11}{'peak':>7}")
    for row in rows:
        print(
            f"{row['devices']:>8}{row['size_bytes'] / 1e6:>7.0f}{row['get_mb_per_second']:>10.0f}"
            f"{row['put_mb_per_second']:>10.0f}{row['server_before_bytes'] / 1e6:>11.0f}"
            f"{row['server_peak_bytes'] / 1e6:>7.0f}"
        )


if __name__ == "__main__":
    main()
