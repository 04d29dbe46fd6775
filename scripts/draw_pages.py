"""Take the pictures of `leff show` that the documents have, from the runs in `results/pages`.

    python scripts/draw_pages.py --out docs/pages

Needs Chromium (`make browser`).  `results/pages/README.md` says how the runs were made.
"""

import argparse
import os
import shutil
import threading
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from leff.show.pages import Pages
from leff.show.server import PageServer, served_at
from leff.show.sources import Sources

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "results" / "pages"
MOST_BYTES = 300_000
WIDE, PHONE = (1200, 900), (390, 800)
# name -> address, window, colours, and what of the page; None is what the window shows
VIEWS = {
    "run": ("#/run/leff", WIDE, "light", None),
    "layers": ("#/run/leff?colour=who&cell=5,2", WIDE, "light", "figure:has-text('Layers')"),
    "devices": ("#/run/leff", WIDE, "light", "[aria-label='clients of the run']"),
    "texts": ("#/run/leff", WIDE, "light", "section:has(blockquote)"),
    "runs": ("#/runs?", WIDE, "light", "article"),
    "plan": ("#/plan/fleet", WIDE, "light", "article"),
    "dark": ("#/run/fedavg", WIDE, "dark", None),
    "phone": ("#/run/leff", PHONE, "light", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pages", help="a folder")
    out = parser.parse_args().out
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("there is no Chromium; `make browser` installs it")
    out.mkdir(parents=True, exist_ok=True)
    shown = Pages(Sources([RUNS / "runs", RUNS / "fleet.json"]))
    server = PageServer(shown, served_at("127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox"] if os.getuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
            for name, (place, size, colours, part) in VIEWS.items():
                width, height = size
                window = {"width": width, "height": height}
                page = browser.new_page(viewport=window, color_scheme=colours)
                page.goto(server.at.address() + place)
                page.wait_for_selector("h1")
                take(page, part, out / f"{name}.png")
                page.close()
            browser.close()
    finally:
        server.stop()
        thread.join()


def take(page: Page, part: str | None, path: Path) -> None:
    """Take a picture of a part of a page.  SystemExit if it is larger than `MOST_BYTES`."""
    page.wait_for_timeout(500)  # until what happened in a chosen cell is there
    if part is None:
        page.screenshot(path=path)
    else:
        page.locator(part).first.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path}  {size:,} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"{path} has more than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
