"""A page of runs: what it is told, whom it is told to, and the file that it is exported to."""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from shown_runs import HOSTILE, append, record
from tiny_runs import command

from leff.errors import ConfigError
from leff.files import sealed, write_json
from leff.runs.config import load_config
from leff.show.beside import PageBeside
from leff.show.followed import Followed
from leff.show.options_view import options_view
from leff.show.pages import Pages
from leff.show.script import MODULES, STATIC
from leff.show.server import PageServer, application, is_loopback, served_at
from leff.show.sources import Sources


def pages(*paths):
    return Pages(Sources(list(paths)))


class Visitor:
    """Asks an application for addresses, and keeps cookies."""

    def __init__(self, app, address):
        self._app, self._address, self._cookies = app, address, httpx.Cookies()

    def get(self, path, **named):
        async def ask():
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(
                transport=transport, base_url=self._address, cookies=self._cookies
            ) as client:
                answer = await client.get(path, **named)
                self._cookies = client.cookies
                return answer

        return asyncio.run(ask())


def wait(ready, seconds=20):
    """Wait until a server that is starting answers, and `ready` is true."""
    end = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except httpx.ConnectError:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_is_told_by_round_layer_and_client(folder):
    run = pages(folder).run("a")
    last = run["rounds"][2]
    assert run["layers"] == 4 and run["rounds_asked"] == 4 and run["rounds_done"] == 2
    assert last["trained"] == [1, 2, 0, 0] and last["moved"] == [3.0, 3.0, None, None]
    assert last["who"][1] == {"client 0": 1, "client 1": 1} and last["importance"][2] == 0.2
    assert run["clients"][2]["failures"] == 2 and run["failures"][0]["round"] == 2
    assert run["download"] == 200 and run["seconds_left"] == pytest.approx(4.0)
    changed = {each["key"] for each in run["options"] if each["changed"]}
    assert changed == {"training.rounds", "seed"}
    outputs = [each["output"] for each in run["texts"][0]["outputs"]]
    assert outputs == ["out 0", "out 0", "out 1"]


def test_a_run_that_grows_is_read_on_and_one_that_was_cut_back_anew(folder):
    run = Followed(folder)
    assert run.refresh() and not run.refresh() and len(run.records) == 3
    append(folder, record(3))
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4')  # is being written
    assert run.refresh() and len(run.records) == 4 and run.problem is None
    lines = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "new").write_text("".join(lines[:2]))
    (folder / "new").replace(folder / "rounds.jsonl")
    assert run.refresh() and len(run.records) == 2
    write_json(folder / "result.json", {"metric": "BLEU", "after": {"metrics": {"BLEU": 0.5}}})
    assert run.refresh() and run.result["metric"] == "BLEU"
    shutil.rmtree(folder)
    assert run.refresh() and "is gone" in run.problem and len(run.records) == 2


def test_a_damaged_record_is_named_and_what_came_before_it_is_shown(folder):
    lines = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text(
        "".join([lines[0], lines[1].replace("1.9", "1.8"), lines[2]])
    )
    run = pages(folder).run("a")
    assert "rounds.jsonl, line 2 cannot be read" in run["problem"] and len(run["rounds"]) == 1
    (folder / "config.toml").write_text("no = = toml")
    assert "config.toml cannot be read" in pages(folder).run("a")["problem"]


def test_names_set_runs_apart_and_new_runs_appear(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "more" / "a")
    shown = pages(folder.parent, tmp_path / "more")
    assert [row["name"] for row in shown.index()["runs"]] == ["runs/a", "more/a"]
    shutil.copytree(folder, tmp_path / "more" / "b")
    assert {row["name"] for row in shown.index()["runs"]} == {"runs/a", "more/a", "b"}


def test_a_plan_is_told_beside_what_was_measured(folder, tmp_path):
    plan = tmp_path / "plan.json"
    row = {"count": 2, "method": "leff", "layers": 1, "predicted_bytes": 5, "upload_bytes": 7}
    classes = {"phone": row, "tv": {"problem": "no"}}
    plan.write_text(json.dumps({"model": "sample", "classes": classes}))
    append(folder, record(3))
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("sha256")
        if line["round"]:
            line["clients"][0]["device"] = "phone"
    (folder / "rounds.jsonl").write_text("".join(json.dumps(sealed(each)) + "\n" for each in lines))
    phone, tv = pages(folder, plan).plan("plan")["classes"]
    assert phone["measured"]["jobs"] == 3 and phone["measured"]["layers"] == 2
    assert phone["measured"]["state_bytes"] == 2000
    assert tv["problem"] == "no" and tv["measured"] is None
    row["method"] = "fedavg"  # the run's is another
    plan.write_text(json.dumps({"model": "sample", "classes": classes}))
    assert pages(folder, plan).plan("plan")["classes"][0]["measured"] is None


@pytest.mark.parametrize("text", ["", "[1]", '{"classes": 3}', '{"a": 1}'])
def test_what_is_no_run_and_no_plan_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.toml").write_text("seed = 3")  # as `leff new` makes it
    for path in (tmp_path, tmp_path / "new", tmp_path / "none", tmp_path / "plan.json"):
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            Sources([path])


def test_the_page_is_for_this_machine_alone(folder):
    visitor = Visitor(
        application(pages(folder), served_at("127.0.0.1", 80), asyncio.Event()),
        "http://127.0.0.1:80",
    )
    answer = visitor.get("/api/run", params={"name": "a"})
    assert (
        answer.json()["name"] == "a"
        and "default-src 'self'" in answer.headers["content-security-policy"]
    )
    assert visitor.get("/").text.startswith("<!doctype html>")
    assert visitor.get("/api/index", headers={"host": "evil.example"}).status_code == 403
    for address in (
        "run?name=b",
        "run",
        "round?name=a&round=9",
        "round?name=a&round=x",
        "plan?name=a",
    ):
        answer = visitor.get(f"/api/{address}")
        assert answer.status_code == 404 and answer.json()["problem"]
    assert visitor.get("/static/../pages.py").status_code == 404


def test_elsewhere_it_takes_a_token_once(folder):
    at = served_at("0.0.0.0", 80)
    visitor = Visitor(application(pages(folder), at, asyncio.Event()), "http://host.lan")
    assert visitor.get("/api/index").status_code == 403
    assert visitor.get("/", params={"token": "wrong"}).status_code == 403
    assert visitor.get("/", params={"token": at.token}).status_code == 307
    assert visitor.get("/api/index").status_code == 200
    assert f"?token={at.token}" in at.address()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host) and served_at(host, 0).token is None
    assert not is_loopback("10.0.0.1") and not is_loopback("localhost.evil.example")


def test_a_taken_port_is_refused(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = served_at("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigError, match=f"port {at.port}"):
            PageServer(pages(folder), at)


def test_a_run_is_shown_while_it_goes_on(folder, monkeypatch):
    said, opened = [], []
    monkeypatch.setattr("webbrowser.open", opened.append)
    running = SimpleNamespace(folder=SimpleNamespace(path=folder))
    with PageBeside(said.append) as page:
        page.started(running)
        (address,) = opened
        wait(lambda: httpx.get(f"{address}api/run?name=a").json()["rounds_done"] == 2)
        with httpx.stream("GET", f"{address}api/events?run=a&since=1", timeout=20) as events:
            append(folder, record(3))
            lines = (line for line in events.iter_lines() if line.startswith("event"))
            assert next(lines) == "event: changed"
        assert httpx.get(f"{address}api/run?name=a").json()["rounds_done"] == 3
    assert said[0].startswith(address) and str(folder) in said[0]
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_options_are_beside_the_defaults_of_their_own_method():
    """Of a method and a preset that set others, those are not what somebody changed."""
    for given in ({"method.name": "fedavg"}, {"preset": "paper"}, {"privacy.noise": 1.0}):
        config = load_config(None, {**given, "training.rounds": 3}).model_dump(mode="json")
        changed = {each["key"] for each in options_view(config) if each["changed"]}
        assert changed == {*given, "training.rounds"}


def test_the_server_ends_in_silence_while_a_page_is_open(folder):
    leff = Path(sys.executable).with_name("leff")
    asked = [leff, "show", folder, "--no-browser"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        address = run.stdout.readline().split()[0]
        with httpx.stream("GET", f"{address}api/events?run=a&since=1", timeout=20) as events:
            lines = events.iter_lines()
            assert next(lines)
            run.send_signal(signal.SIGINT)
            assert "still here" not in "".join(lines)  # they end
        assert run.wait(20) == 130 and run.stderr.read() == ""


def test_an_export_names_no_address_and_texts_stay_texts(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "page.html"
    assert command(capsys, monkeypatch, "show", str(folder), "--export", str(out))[0] == 0
    text = out.read_text()
    assert not re.findall(r"https?:|src=|@import", text.replace('"data:,"', ""))
    assert "<script>alert" not in text and "alert" in text
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1]
    values = json.loads(data)
    assert values["run?name=a"]["texts"][0]["input"] == HOSTILE
    assert {f"round?name=a&round={k}" for k in range(3)} < values.keys()


def test_every_module_of_the_page_is_in_an_export_after_those_that_it_imports():
    assert {f"{name}.js" for name in MODULES} == {path.name for path in STATIC.glob("*.js")}
    for place, name in enumerate(MODULES):
        imports = re.findall(r'from "\./(\w+)\.js"', (STATIC / f"{name}.js").read_text())
        assert set(imports) <= set(MODULES[:place]), name
