"""Calls that the SuperLink refuses, or does half of."""

from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from leff.device.connection import Connection, FailedCallError, Message, NotAdmittedError
from leff.network import superlink
from leff.network.certificates import make_authority
from leff.network.superlink import LinkLostError

MESSAGE = Message("ask", "1", run=2, node=3, server=1, created_at=1e9, seconds=60.0)


class Client:
    """A SuperLink that stores the first so many objects of an answer."""

    def __init__(self, stores=10, status=200):
        self.stores, self.status, self.announced = stores, status, 0

    def _answered(self, **values):
        if self.status != 200:
            request = httpx.Request("POST", "https://localhost/")
            response = httpx.Response(self.status, request=request)
            raise httpx.HTTPStatusError("refused", request=request, response=response)
        return SimpleNamespace(**values)

    def ActivateNode(self, request):  # noqa: N802
        return self._answered(node_id=3)

    def PushMessages(self, request):  # noqa: N802
        self.announced += 1
        (tree,) = request.message_object_trees
        names = [tree.object_id, *(child.object_id for child in tree.children)]
        return self._answered(objects_to_push=names, session_id="s")

    def PushObject(self, request):  # noqa: N802
        self.stores -= 1
        return self._answered(stored=self.stores >= 0)


@pytest.fixture
def connection(tmp_path):
    make_authority(tmp_path)
    made = Connection("localhost:1", tmp_path / "ca.crt", ec.generate_private_key(ec.SECP384R1()))
    made._client = Client()
    made.open(None)
    return made


def test_an_answer_is_taken_whole_or_has_failed(connection):
    assert connection.answer(MESSAGE, "an answer")
    for stores in (0, 1):
        connection._client = Client(stores)
        with pytest.raises(FailedCallError, match="lost a part"):
            connection.answer(MESSAGE, "an answer")


@pytest.mark.parametrize("status", [401, 412])
def test_a_key_that_nobody_admitted(connection, status):
    connection._client = Client(status=status)
    with pytest.raises(NotAdmittedError, match="does not know this device's key"):
        connection.open(None)


def test_a_message_of_the_run_that_is_lost_in_part_loses_the_link():
    def lost():
        raise ObjectPushError("object", 2, "session")

    with pytest.raises(LinkLostError, match="lost a part of a message"):
        superlink._tried(lost)
