"""The page in Chromium: what a visitor sees, points at, sorts and saves.

Every test also fails if the page writes to the console, raises an error, asks for anything that is
not its own, or is wider than its window.  `CONTRIBUTING.md` says how to get Chromium.
"""

import csv
import json
import os
import re
import shutil
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright
from shown_runs import HOSTILE, append, record, run_folder

from leff.show.export import write_page
from leff.show.pages import Pages
from leff.show.server import PageServer, served_at
from leff.show.sources import Sources

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
QUIET = [  # nothing that a browser does on its own
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--disable-gpu", "--disable-dev-shm-usage"),
    *(["--no-sandbox"] if os.getuid() == 0 else []),
]

expect.set_options(timeout=20_000)  # ms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; `make browser` installs it"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield launched
        launched.close()


@contextmanager
def serving(*paths):
    server = PageServer(Pages(Sources(list(paths))), served_at("127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.at.address()
    finally:
        server.stop()
        thread.join()


@pytest.fixture
def serve():
    """Return what serves runs at an address, until all windows are closed."""
    with ExitStack() as servers:
        yield lambda *paths: servers.enter_context(serving(*paths))


@pytest.fixture
def visit(browser, serve):
    """Return what opens an address in a window of its own, and watches over it."""
    opened = []

    def open_window(address, absent=False, **window):
        page = browser.new_context(**window).new_page()
        wrong = []
        page.on("console", lambda said: (absent and "404" in said.text) or wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        own = (address.partition("#")[0], "data:", "blob:")
        page.on("request", lambda asked: asked.url.startswith(own) or wrong.append(asked.url))
        opened.append((page, wrong))
        page.goto(address)
        page.wait_for_selector("h1")
        return page

    yield open_window
    for page, wrong in opened:
        wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        page.context.close()
        assert not wrong and wide <= window


@pytest.fixture
def served(folder, serve):
    """The address of the page of one run that is not finished."""
    return serve(folder)


@pytest.fixture
def several(folder, tmp_path, serve):
    """The address of a page of three runs and a plan."""
    run_folder(tmp_path / "runs" / "b", method={"name": "fedavg"}, seed=3)
    append(run_folder(tmp_path / "runs" / "c", seed=20), record(3, plug_in_gap=0.25))
    plan = {"count": 2, "layers": 1, "predicted_bytes": 5, "memory_bytes": 9, "steps": 1}
    plan |= {"all_steps": 2}
    classes = {"phone": plan, "tv": {"problem": "too small"}}
    (tmp_path / "fleet.json").write_text(json.dumps({"model": "sample", "classes": classes}))
    return serve(tmp_path / "runs", tmp_path / "fleet.json")


def column(page, number):
    cells = page.locator(f".scroll[aria-label='runs'] tbody td:nth-child({number})")
    return cells.all_inner_texts()


def test_a_run_that_goes_on_is_drawn_again(served, folder, visit):
    page = visit(served)
    expect(page.locator("h1")).to_have_text("a")
    assert page.url.endswith("#/run/a")
    facts = page.locator(".facts")
    expect(facts).to_contain_text("round 2 of 4")
    expect(page.locator("#live")).to_have_text("live")
    page.get_by_text("as a table").first.click()
    page.locator("button", has_text="all ").focus()
    append(folder, record(3))
    expect(facts).to_contain_text("round 3 of 4")
    expect(page.locator("button", has_text="all ")).to_be_focused()
    expect(page.locator("figure", has_text="Loss").locator("tbody")).to_contain_text("1.7")
    expect(page.locator("figure", has_text="Loss").locator("svg")).to_have_attribute(
        "aria-label", re.compile("1.7 at 3$")
    )


def test_a_waiting_run_shows_the_time_and_the_networks_devices(tmp_path, serve, visit, monkeypatch):
    folder = tmp_path / "waiting"
    run_folder(folder, engine={"name": "flower"})
    lines = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text(lines[0])  # no client was asked yet
    device = {"number": 1, "name": "attic", "state": "admitted", "last_seen": None}
    device |= {"refused": None, "capacity": None}
    server = {"address": "host:1", "running": True, "devices": [device]}
    monkeypatch.setattr(Pages, "devices", lambda *_: {"server": server, "problem": None})
    page = visit(serve(folder))
    expect(page.locator("#devices-now")).to_contain_text("admitted")
    written = page.locator(".facts li", has_text="written")
    before = written.inner_text()
    device |= {"state": "online", "last_seen": time.time()}
    expect(page.locator("#devices-now")).to_contain_text("online")
    expect(written).not_to_have_text(before)


def test_a_cell_of_the_layer_map_tells_who_trained_it(served, visit):
    page = visit(served)
    layers = page.locator("svg[role='application']")
    panel = page.locator(".panel")
    box = layers.bounding_box()
    layers.hover(position={"x": 34 + 10, "y": (4 - 1 - 1) * 20 + 10})  # round 1, layer 1 of 4
    expect(panel).to_contain_text("Round 1, layer 1")
    expect(panel).to_contain_text("trained by 2 of 3 clients, on 20 examples")
    expect(panel).to_contain_text("client 0: layers 0-1, 10 examples, moved it by 4")
    layers.focus()
    page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text("Round 2, layer 1")
    page.keyboard.press("ArrowUp")
    expect(panel).to_contain_text("client 2 failed: lost")
    page.keyboard.press("ArrowUp")
    expect(panel).to_contain_text("Round 2, layer 3")
    expect(panel).to_contain_text("stand-in error where the layer was replaced: 0.03 (layers 2-3)")
    assert box["width"] > 200
    page.get_by_label("colour:").select_option("who")
    expect(page.locator("figure", has_text="Layers")).to_contain_text("share of the clients")
    assert "colour=who" in page.url


def test_a_curve_tells_its_values_under_the_pointer_and_by_keys(served, visit):
    page = visit(served)
    loss = page.locator("figure", has_text="Loss").first
    chart = loss.locator("svg")
    box = chart.bounding_box()
    chart.hover(position={"x": box["width"] / 3, "y": 60})
    expect(loss).to_contain_text(re.compile(r"round \d: full model, validation \d"))
    chart.focus()
    page.keyboard.press("Home")
    expect(loss).to_contain_text("round 0: full model, validation 2")
    page.keyboard.press("ArrowRight")
    expect(loss).to_contain_text("round 1: full model, validation 1.9")
    page.keyboard.press("End")
    expect(loss).to_contain_text("round 2: full model, validation 1.8")


def test_runs_are_sorted_chosen_and_shared_by_address(several, visit):
    page = visit(several)
    expect(page.locator("h1")).to_have_text("3 runs")
    seed = page.locator("th", has_text="seed")
    place = 1 + page.locator("th").all_inner_texts().index("seed")
    seed.locator("button").click()
    expect(seed).to_have_attribute("aria-sort", "ascending")
    assert column(page, place) == ["3", "7", "20"]
    seed.locator("button").click()
    expect(seed).to_have_attribute("aria-sort", "descending")
    assert column(page, place) == ["20", "7", "3"]
    overlay, of_b = page.locator("figure").first.locator("svg"), re.compile(r"; b [\d.]+ at round")
    expect(overlay).to_have_attribute("aria-label", of_b)
    page.get_by_label("draw b").uncheck()
    expect(page.get_by_label("draw b")).not_to_be_checked()
    expect(overlay).not_to_have_attribute("aria-label", of_b)
    page.get_by_text("columns", exact=True).click()
    page.get_by_label("failures").check()
    expect(page.locator("th", has_text="failures")).to_be_visible()
    page.get_by_label("written").check()  # the list is still open
    expect(page.locator("th", has_text="written")).to_be_visible()
    again = visit(page.url)
    expect(again.locator("th", has_text="failures")).to_be_visible()
    expect(again.get_by_label("draw b")).not_to_be_checked()
    assert column(again, place) == ["20", "7", "3"]
    again.get_by_role("link", name="c", exact=True).click()
    expect(again.locator("h1")).to_have_text("c")
    expect(again.locator("figure", has_text="Plug-in gap")).to_be_visible()
    again.go_back()
    expect(again.locator("h1")).to_have_text("3 runs")


def test_a_new_run_appears(several, tmp_path, visit):
    page = visit(several)
    run_folder(tmp_path / "runs" / "d")
    expect(page.locator("h1")).to_have_text("4 runs")


def test_a_plan(several, visit):
    page = visit(f"{several}#/plan/fleet")
    expect(page.locator("h1")).to_have_text("fleet")
    expect(page.get_by_label("phone: 5 B of 9 B, 1 layers")).to_be_visible()
    expect(page.locator("article")).to_contain_text("tv sits out: too small")


def test_what_is_not_there_is_said(several, visit, folder):
    page = visit(several, absent=True)
    page.evaluate("location.hash = '#/run/a'")
    expect(page.locator("h1")).to_have_text("a")
    shutil.rmtree(folder)
    expect(page.locator(".bad").first).to_contain_text(re.compile("there is no run a|is gone"))


def test_charts_and_tables_can_be_saved(several, visit):
    page = visit(several)
    with page.expect_download() as saved:
        page.locator("section").get_by_role("button", name="CSV", exact=True).click()
    rows = list(csv.DictReader(saved.value.path().read_text().splitlines()))
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert [row["method"] for row in rows] == ["leff", "fedavg", "leff"]
    with page.expect_download() as saved:
        page.get_by_role("button", name=re.compile("as PNG")).first.click()
    assert saved.value.path().read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_hostile_text_is_text(served, visit):
    page = visit(served)
    expect(page.locator("article")).to_contain_text('</script><script>alert("x")</script>')
    assert page.locator("script").count() == 1


def test_an_exported_page_stands_alone(folder, tmp_path, visit):
    out = tmp_path / "page.html"
    write_page(Pages(Sources([folder])), out)
    page = visit(out.as_uri())
    expect(page.locator("#live")).to_have_text("a file, as it was")
    expect(page.locator("article")).to_contain_text(HOSTILE.strip())
    layers = page.locator("svg[role='application']")
    layers.hover(position={"x": 34 + 10, "y": 50})
    expect(page.locator(".panel")).to_contain_text("client 0: layers 0-1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_light_and_dark(several, visit, scheme):
    phone = {"viewport": {"width": 380, "height": 700}, "color_scheme": scheme}
    for place in ("#/runs?", "#/run/c", "#/plan/fleet"):
        page = visit(several + place, **phone)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 200) == (scheme == "dark")
        controls = page.locator("button, select, input, svg[tabindex]")
        for control in controls.all():
            assert control.evaluate("e => (e.labels?.length || e.ariaLabel || e.textContent)")
    page.locator("#theme").click()
    assert dark != page.evaluate("getComputedStyle(document.body).backgroundColor")
