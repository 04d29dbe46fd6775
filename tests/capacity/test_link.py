"""The link's speed: what a server lets be measured, and what is no measurement."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from leff.capacity import link
from leff.capacity.link import measure_link
from leff.errors import ConfigError


class Handler(BaseHTTPRequestHandler):
    posts, size = 200, 3_000_000

    def do_GET(self):
        self.send_response(200 if self.path == "/file?a=1" else 404)
        self.end_headers()
        self.wfile.write(bytes(self.size))

    def do_POST(self):
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 2**16)))
        self.send_response(self.posts)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, which the code under test takes for another."""
    monkeypatch.setattr(link, "_loopback", lambda place: False)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_both_directions(server):
    found = measure_link(f"{server}/file?a=1")
    assert found.down_bytes_per_second > 0 and found.up_bytes_per_second > 0
    assert found.down.startswith("3,000,000 bytes fetched in")
    assert found.up.startswith("4,000,000 bytes posted in")


def test_a_server_that_refuses_leaves_no_figure(server, monkeypatch):
    monkeypatch.setattr(Handler, "posts", 405)
    found = measure_link(f"{server}/other")
    assert found.down_bytes_per_second is None and found.up_bytes_per_second is None
    assert found.down == "not measured: the server answers GET with 404"
    assert found.up == "not measured: the server answers POST with 405"


def test_a_short_answer_is_no_measurement(server, monkeypatch):
    monkeypatch.setattr(Handler, "size", 10_000)
    found = measure_link(f"{server}/file?a=1")
    assert found.down_bytes_per_second is None and "gave 10,000 bytes, too few" in found.down


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.org/x", "must be an http"),
        ("example.org", "must be an http"),
        ("http://127.0.0.1:9/x", "is this machine: that measures no link"),
        ("http://localhost/x", "is this machine"),
        ("http://[::1]/x", "is this machine"),
        ("http://no-such-host.invalid/x", "cannot be measured"),
    ],
)
def test_addresses_that_are_refused(url, message):
    with pytest.raises(ConfigError, match=message):
        measure_link(url)
