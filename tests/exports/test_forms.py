"""`leff export`: whole models, differences, the hub, and what is refused before any work."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import leff
from leff.cli import app
from leff.errors import ConfigError, RunError
from leff.models import full_state


def test_a_whole_model_of_either_type(finished, tmp_path):
    opened = finished("leff")
    leff.export(opened.folder.path, merged=tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert files == {path.name: path.read_bytes() for path in opened.model_folder.iterdir()}
    written = leff.export(opened.model_folder, merged=tmp_path / "half", dtype="bfloat16")
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert half.dtype == torch.bfloat16
    wanted = full_state(opened.trained()[0])
    assert all(
        torch.equal(tensor, wanted[name].bfloat16()) for name, tensor in full_state(half).items()
    )
    assert written["bytes"] < 0.7 * sum(map(len, files.values()))


def test_the_difference_added_to_the_base_is_the_model(finished, tmp_path):
    opened = finished("leff")
    written = leff.export(opened.folder.path, difference=tmp_path / "change.safetensors")
    change, start = load_file(tmp_path / "change.safetensors"), full_state(opened.start())
    assert written["tensors"] == len(change) > 0
    for name, tensor in full_state(opened.trained()[0]).items():
        torch.testing.assert_close(start[name] + change.get(name, 0.0), tensor)
        assert (name in change) == (not torch.equal(start[name], tensor))


def test_the_command_prints_where_and_how_large(finished, tmp_path):
    run = str(finished("fedlora").folder.path)
    done = CliRunner().invoke(app, ["export", run, "--adapter", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{tmp_path / 'a'}  (rank 8, ")
    done = CliRunner().invoke(app, ["export", run, "--merged", str(tmp_path / "m"), "--json"])
    written = json.loads(done.output)
    assert written["form"] == "merged"
    assert written["bytes"] == sum(p.stat().st_size for p in (tmp_path / "m").iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give one of --merged, --adapter, --difference, --gguf, --hub, got 0"),
        ({"merged": "a", "gguf": "b.gguf"}, "got 2"),
        ({"merged": "."}, "exists already"),
        ({"merged": "nowhere/model"}, "there is no folder nowhere"),
        ({"gguf": "walks.bin"}, "--gguf must be a file whose name ends in .gguf"),
        ({"difference": "walks"}, "ends in .safetensors"),
        ({"merged": "a", "dtype": "q8_0"}, "--dtype of --merged cannot be 'q8_0'"),
        ({"adapter": "a", "dtype": "float16"}, "--dtype of --adapter cannot be 'float16'"),
        ({"gguf": "a.gguf", "dtype": "int3"}, "--dtype of --gguf cannot be 'int3'"),
        ({"hub": "a/b/c"}, "--hub must be a repository such as me/walks"),
    ],
)
def test_bad_input_is_refused_before_the_run_is_read(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        leff.export(tmp_path / "no run", **given)
    assert list(tmp_path.iterdir()) == []


def test_public_is_for_the_hub_alone(tmp_path):
    done = CliRunner().invoke(app, ["export", "run", "--merged", str(tmp_path / "m"), "--public"])
    assert str(done.exception) == "--public is for --hub"


def test_what_is_no_finished_run_is_refused(finished, tmp_path):
    with pytest.raises(ConfigError, match="is no run folder"):
        leff.export(tmp_path, merged=tmp_path / "m")
    run = finished("fedavg").folder.path
    result = (run / "result.json").rename(run / "elsewhere.json")
    try:
        with pytest.raises(ConfigError, match=r"is not finished; `leff resume .*` finishes it"):
            leff.export(run, merged=tmp_path / "m")
    finally:
        result.rename(run / "result.json")


class Hub(BaseHTTPRequestHandler):
    """Stands for the hub: what huggingface_hub asks to make a repository and to commit files."""

    def do_POST(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers["Authorization"] != "Bearer hf_right":
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            self.server.made = json.loads(body)
            return self._answer(200, {"url": f"{self.server.address}/me/walks", "name": "me/walks"})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            commit = {"commitUrl": f"{self.server.address}/me/walks/commit/1", "commitOid": "1"}
            return self._answer(200, commit | {"hookOutput": "", "success": True})
        return self._answer(404, {"error": "not here"})

    def do_GET(self):
        return self._answer(200, {"id": "me/walks", "sha": "0", "siblings": [], "tags": []})

    def _answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.seen, server.files, server.made = [], {}, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def to_hub(run, hub, token, *more):
    """Run the command in a process of its own: the library reads the environment as it starts."""
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "leff", "export", str(run), "--hub", "me/walks", *more]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_model_goes_to_the_hub(finished, hub):
    opened = finished("fedavg")
    done = to_hub(opened.folder.path, hub.address, "hf_right")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.address}/me/walks"
    assert hub.made["visibility"] == "private"
    assert hub.files == {path.name: path.read_bytes() for path in opened.model_folder.iterdir()}
    assert b"fine-tuned with LEFF" in hub.files["README.md"]


def test_a_hub_that_refuses_or_is_not_there_is_one_line(finished, hub):
    run = finished("fedavg").folder.path
    for address, token in ((hub.address, "hf_wrong"), ("http://127.0.0.1:9", "hf_right")):
        done = to_hub(run, address, token)
        assert done.returncode == 1
        assert done.stderr.strip().count("\n") == 0, done.stderr
        assert "error: me/walks was not uploaded" in done.stderr
        assert "hf auth login" in done.stderr
    assert hub.files == {}


def test_a_failure_of_any_library_that_sends_is_one_line(finished, monkeypatch):
    class SendError(Exception):
        """What the library raises that huggingface_hub sends with, such as httpx2 since 2.0."""

    def create_repo(*_, **__):
        raise SendError("no route")

    monkeypatch.setattr("leff.exports.hub.HTTPError", SendError)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    with pytest.raises(RunError, match="me/walks was not uploaded: no route"):
        leff.export(finished("fedavg").folder.path, hub="me/walks")
