"""What the gateway passes on to the SuperLink, and what it does not."""

import threading

import pytest
import uvicorn
from gateways import Gateway, read_answer
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from leff.network import relay
from leff.network.gateway import listening
from leff.network.relay import CALLS


class SuperLink:
    """A SuperLink that keeps what it was asked and answers with what a test says."""

    def __init__(self, **tls):
        self.asked, self.answer = [], Response(b"answer", media_type="application/x-protobuf")
        app = Starlette(routes=[Route("/{path:path}", self.take, methods=["GET", "POST", "PUT"])])
        self.sock = listening("127.0.0.1", 0)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.sock.getsockname()[1]}"
        config = uvicorn.Config(app, ws="none", log_config=None, timeout_graceful_shutdown=1, **tls)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.sock],))
        self.thread.start()

    async def take(self, request):
        self.asked.append((request.url.path, dict(request.headers), await request.body()))
        return self.answer

    def stop(self):
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def superlink():
    running = SuperLink()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def relaying(tmp_path_factory, superlink):
    with Gateway(tmp_path_factory.mktemp("relay"), superlink.url).in_thread() as running:
        yield running


@pytest.fixture
def device(relaying, superlink):
    superlink.asked.clear()
    with relaying.transfers() as transfers:
        yield transfers._client


@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_a_device_is_passed_on(device, superlink, call):
    answer = device.post(f"/v1/fleet/{call}", content=b"question")
    assert (answer.status_code, answer.content) == (200, b"answer")
    [(path, _, body)] = superlink.asked
    assert (path, body) == (f"/v1/fleet/{call}", b"question")


def test_only_needed_headers_pass(device, superlink):
    superlink.answer = Response(
        b"no",
        401,
        {"Set-Cookie": "a=b", "X-Inside": "path", "flwr-version-incompatibility-message": "old"},
        media_type="application/json",
    )
    flower = {f"flwr-{name}": name for name in ("public-key", "signature", "timestamp")}
    flower |= {f"flwr-{name}": name for name in ("package-name", "package-version")}
    flower |= {"flwr-component-name": "SuperNode", "content-type": "application/x-protobuf"}
    others = {"X-Forwarded-For": "1.2.3.4", "Cookie": "a=b", "Authorization": "Bearer x"}
    answer = device.post("/v1/fleet/get-run", content=b"q", headers={**flower, **others})
    [(_, headers, _)] = superlink.asked
    assert flower.items() <= headers.items()
    assert not {name.lower() for name in others} & set(headers)
    assert (answer.status_code, answer.text) == (401, "no")
    assert answer.headers["flwr-version-incompatibility-message"] == "old"
    assert not {"set-cookie", "x-inside", "server"} & set(answer.headers)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/fleet/register-node", 404),
        ("POST", "/v1/fleet/unregister-node", 404),
        ("POST", "/v1/fleet/GET-RUN", 404),
        ("POST", "/v1/fleet/", 404),
        ("POST", "/v1/fleet/get-run/", 404),
        ("POST", "/v1/fleet/x%2f..%2f..%2fcontrol%2fstart-run", 404),
        ("POST", "/v1/fleet/get-run%3fa=b", 404),
        ("POST", "/v1/control/start-run", 404),
        ("POST", "/v1/runtime/push-logs", 404),
        ("POST", "/", 404),
        ("GET", "/v1/fleet/get-run", 405),
        ("PUT", "/v1/fleet/get-run", 405),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/hello", 405),
        ("GET", "/hello/", 404),
    ],
)
def test_nothing_else_is_passed_on(device, superlink, method, path, status):
    assert device.request(method, path, content=b"q").status_code == status
    assert superlink.asked == []


def test_a_question_with_a_query_goes_without_it(device, superlink):
    device.post("/v1/fleet/get-run?x=../..", content=b"q")
    assert superlink.asked[0][0] == "/v1/fleet/get-run"


def test_too_large_a_call(device, superlink):
    answer = device.post("/v1/fleet/push-object", content=bytes(relay.BODY_BYTES + 1))
    assert answer.status_code == 413 and "at most 2000000 bytes" in answer.text
    assert superlink.asked == []
    device.post("/v1/fleet/push-object", content=bytes(relay.BODY_BYTES))
    assert len(superlink.asked[0][2]) == relay.BODY_BYTES


def test_a_call_without_its_length(device, superlink):
    answer = device.post("/v1/fleet/get-run", content=iter([b"q"]))
    assert (answer.status_code, superlink.asked) == (411, [])


def test_a_call_that_stops(relaying, superlink, monkeypatch):
    superlink.asked.clear()
    monkeypatch.setattr(relay, "BODY_SECONDS", 0.1)
    with relaying.tls() as tls:
        tls.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        assert read_answer(tls) == (408, "the call did not arrive in time")
    assert superlink.asked == []


def test_the_superlink_is_down(gateway):
    """That fixture's gateway has none."""
    with gateway.transfers() as transfers:
        answer = transfers._client.post("/v1/fleet/get-run", content=b"q")
    assert (answer.status_code, answer.text) == (503, "the SuperLink is down; try again later")
    assert gateway.answers()


@pytest.mark.parametrize("trusted", [True, False])
def test_a_superlink_with_tls(tmp_path, trusted):
    """It has the server's certificate, which is for this machine too."""
    (tmp_path / "other").mkdir()
    made, other = Gateway(tmp_path), Gateway(tmp_path / "other")
    own = made if trusted else other
    files = {"ssl_certfile": own.settings.certificate, "ssl_keyfile": own.settings.key}
    link = SuperLink(**files)
    made.superlink, made.superlink_authority = link.url, made.authority
    with made.in_thread(), made.transfers() as transfers:
        answer = transfers._client.post("/v1/fleet/get-run", content=b"q")
    link.stop()
    assert answer.status_code == (200 if trusted else 503)
    assert len(link.asked) == trusted


def test_the_superlink_breaks_off(tmp_path):
    sock = listening("127.0.0.1", 0)

    def hang_up():
        sock.accept()[0].close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with Gateway(tmp_path, url).in_thread() as running, running.transfers() as transfers:
        answer = transfers._client.post("/v1/fleet/get-run", content=b"q")
    assert (answer.status_code, answer.text) == (502, "the SuperLink did not answer; try again")
    thread.join()
    sock.close()
