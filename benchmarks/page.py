"""How soon `leff show` has drawn a run of 200 rounds by 200 clients, and a thousand runs.

    .venv/bin/python -m benchmarks.page

Needs Chromium (`make browser`).  The runs are made up: records of the right form that nobody ran.
`read` is the first answer of a new server, which reads the folder; the others are of a server that
has read it: `first paint`, and `drawn`, from the request until all curves, the layer map and the
tables are there; `frame` is the longest pause between two frames while the page is scrolled from
its top to its end.  Each is the median and the range of several visits.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from leff.files import sealed
from leff.record import ClientRecord, RoundRecord
from leff.runs.options import RunConfig
from leff.runs.toml import commented_toml
from leff.show.pages import Pages
from leff.show.server import PageServer, served_at
from leff.show.sources import Sources

SCROLLED = """async () => {
  let longest = 0, last = await new Promise(requestAnimationFrame);
  for (let y = 0; y < document.documentElement.scrollHeight; y += 60) {
    scrollTo(0, y);
    const now = await new Promise(requestAnimationFrame);
    longest = Math.max(longest, now - last);
    last = now;
  }
  return longest;
}"""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def made_up_run(path: Path, rounds: int, clients: int, layers: int, seed: int) -> None:
    """Write the configuration and records of a run in which clients trained one to six layers."""
    chance = random.Random(seed)
    path.mkdir(parents=True)
    options = {"training": {"rounds": rounds}, "seed": seed}
    (path / "config.toml").write_text(commented_toml(RunConfig.model_validate(options)))
    with (path / "rounds.jsonl").open("w", encoding="utf-8") as file:
        for index in range(rounds + 1):
            record = _record(chance, index, clients if index else 0, layers)
            file.write(json.dumps(sealed(record.to_dict())) + "\n")


def _record(chance: random.Random, index: int, clients: int, layers: int) -> RoundRecord:
    text = {"input": "name: x | area: y", "output": f"x is in y, {index}", "references": ["x"]}
    return RoundRecord(
        index,
        clients=tuple(_client(chance, number, layers) for number in range(clients)),
        loss=3 / (1 + index / 30),
        metric=0.5 - 0.4 / (1 + index / 30),
        train_loss=2.5 / (1 + index / 30),
        plug_in_gap=chance.random(),
        download_bytes=10**6 * clients,
        upload_bytes=10**5 * clients,
        seconds=3.0,
        train_seconds=2.0,
        evaluation_seconds=0.5,
        texts=[text] * 3,
        facts={
            "layer_scores": [chance.random() for _ in range(layers)],
            "context_error": {f"{k}-{k + 3}": chance.random() for k in range(layers - 3)},
        },
    )


def _client(chance: random.Random, number: int, layers: int) -> ClientRecord:
    count = chance.randint(1, 6)
    first = chance.randrange(layers - count + 1)
    return ClientRecord(
        client=number,
        capacity=count,
        memory_bytes=None,
        step_flops=None,
        layers=tuple(range(first, first + count)),
        examples=chance.randint(10, 100),
        steps=10,
        losses=(2.5, 2.25),
        download_bytes=10**6,
        upload_bytes=10**5,
        train_seconds=chance.random(),
        state_bytes=2 * 10**7,
        predicted_bytes=None,
        accumulation=1,
        checkpointing=False,
        layer_scores=(),
        failure="connection lost" if chance.random() < 0.02 else None,
        norms=tuple(chance.random() for _ in range(count)),
    )


@contextmanager
def served(folder: Path) -> Generator[tuple[str, float]]:
    """Serve a folder; yield the address, and the seconds of its first reading."""
    pages = Pages(Sources([folder]))
    start = time.perf_counter()
    pages.index()
    read = time.perf_counter() - start
    server = PageServer(pages, served_at("127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.at.address(), read
    finally:
        server.stop()
        thread.join()


def visited(browser: Any, address: str) -> dict[str, float]:
    """Visit a page in a new window; return the seconds that it took."""
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("table tbody tr:last-child")
    drawn = time.perf_counter() - start
    painted = page.evaluate(PAINTED) / 1000
    frame = page.evaluate(SCROLLED) / 1000
    page.close()
    return {"first paint": painted, "drawn": drawn, "frame": frame}


def measure(browser: Any, folder: Path, visits: int) -> dict[str, list[float]]:
    """Return [median, least, most] of `visits` visits, and of as many readings."""
    found: dict[str, list[float]] = {}
    for _ in range(visits):
        with served(folder) as (address, read):
            found.setdefault("read", []).append(read)
            visited(browser, address)  # the browser's own caches are warm from here on
            for name, seconds in visited(browser, address).items():
                found.setdefault(name, []).append(seconds)
    return {name: [statistics.median(own), min(own), max(own)] for name, own in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.page", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=200)
    add("--clients", type=int, default=200)
    add("--layers", type=int, default=24)
    add("--runs", type=int, default=1000, help="small runs in the second folder")
    add("--visits", type=int, default=5)
    add("--json", action="store_true")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("there is no Chromium; `make browser` installs it")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        one, many = Path(folder) / "one", Path(folder) / "many"
        made_up_run(one / "run", given.rounds, given.clients, given.layers, 0)
        for number in range(given.runs):
            made_up_run(many / f"run-{number:04}", 5, 4, given.layers, number)
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        found = {
            f"{given.rounds} rounds x {given.clients} clients": measure(browser, one, given.visits),
            f"{given.runs} runs": measure(browser, many, given.visits),
        }
        browser.close()
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for what, figures in found.items():
        print(what)
        for name, (median, least, most) in figures.items():
            print(f"  {name:<12}{median:>7.2f} s  ({least:.2f} to {most:.2f})")


if __name__ == "__main__":
    main()
