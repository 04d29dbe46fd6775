"""What we use of Flower that is not public, in exactly the version that we were made for.

If this fails after an upgrade of flwr, read the module that is named, and mend it there.
"""

import ast
import importlib
import inspect
from importlib import metadata
from pathlib import Path

import pytest

from leff.errors import NetworkError
from leff.network import superlink
from leff.network.superlink import VERSION, check_version

SOURCE = Path(superlink.__file__).parents[1]
PRIVATE = (
    "network/superlink.py",
    "device/connection.py",
    "privacy/masks.py",
    "wire/flower_texts.py",
)
PUBLIC = {
    "flwr.app": {"ConfigRecord", "Context", "Message", "RecordDict"},
    "flwr.clientapp": {"ClientApp"},
    "flwr.serverapp": {"Grid", "ServerApp"},
    "flwr.simulation": {"run_simulation"},
}
# What we call, with the parameters that we give.
CALLS = {
    "flwr.common.secure_aggregation.crypto.shamir:create_shares": ["secret", "threshold", "num"],
    "flwr.common.secure_aggregation.crypto.shamir:combine_shares": ["share_list"],
    "flwr.cli.build:build_fab_from_files": ["files"],
    "flwr.supercore.control:ControlHttpClient.from_server_address": [
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
    ],
    "flwr.supercore.runtime:RuntimeHttpClient.from_server_address": [
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
        "retry_invoker",
    ],
    "flwr.supernode.fleet_http_client:FleetHttpClient.from_server_address": [
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
    ],
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": ["component_name"],
    "flwr.supercore.interceptors.http.superexec_auth:SuperExecAuthHttpInterceptor": [
        "master_secret",
        "protected_methods",
    ],
    "flwr.supercore.interceptors.http.utils:add_headers": ["request", "headers"],
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": ["public_key"],
    "flwr.supercore.primitives.asymmetric:sign_message": ["private_key", "message"],
    "flwr.supercore.retry:make_simple_http_retry_invoker": [],
    "flwr.superlink.grid:HttpGrid": ["token"],
    "flwr.superlink.grid:HttpGrid.set_run": ["run"],
    "flwr.superlink.grid:HttpGrid.get_node_ids": [],
    "flwr.superlink.grid:HttpGrid.push_messages": ["messages"],
    "flwr.superlink.grid:HttpGrid.close": [],
    "flwr.common.serde:run_from_proto": ["run_proto"],
    "flwr.common.serde:message_from_proto": ["message_proto"],
    "flwr.common.serde:message_to_proto": ["message"],
    "flwr.app.message:make_message": ["metadata", "content"],
    "flwr.app.metadata:Metadata": [
        "run_id",
        "message_id",
        "src_node_id",
        "dst_node_id",
        "reply_to_message_id",
        "group_id",
        "created_at",
        "ttl",
        "message_type",
    ],
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": [],
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": [],
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": [],
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": [],
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": [],
}
# Requests and answers, with the fields that we set or read.
FIELDS = {
    "flwr.proto.control_pb2:ListNodesResponse": ["nodes_info"],
    "flwr.proto.control_pb2:RegisterNodeRequest": ["public_key"],
    "flwr.proto.control_pb2:RegisterNodeResponse": ["node_id"],
    "flwr.proto.control_pb2:UnregisterNodeRequest": ["node_id"],
    "flwr.proto.control_pb2:StartRunRequest": ["fab"],
    "flwr.proto.control_pb2:StartRunResponse": ["run_id"],
    "flwr.proto.fab_pb2:Fab": ["hash_str", "content"],
    "flwr.proto.node_pb2:Node": ["node_id"],
    "flwr.proto.node_pb2:NodeInfo": [
        "node_id",
        "public_key",
        "status",
        "online_until",
        "heartbeat_interval",
    ],
    "flwr.proto.runtime_pb2:AcquireTaskRequest": ["supported_task_types"],
    "flwr.proto.runtime_pb2:AcquireTaskResponse": ["token", "task"],
    "flwr.proto.runtime_pb2:PullTaskInputResponse": ["task_id", "run", "context"],
    "flwr.proto.runtime_pb2:SendTaskHeartbeatResponse": ["success"],
    "flwr.proto.runtime_pb2:PullAppMessagesRequest": ["message_ids"],
    "flwr.proto.runtime_pb2:PullAppMessagesResponse": ["messages_list", "message_object_trees"],
    "flwr.proto.runtime_pb2:PushTaskOutputRequest": ["sub_status", "details"],
    "flwr.proto.fleet_pb2:ActivateNodeRequest": ["public_key", "heartbeat_interval"],
    "flwr.proto.fleet_pb2:ActivateNodeResponse": ["node_id"],
    "flwr.proto.fleet_pb2:DeactivateNodeRequest": ["node_id"],
    "flwr.proto.fleet_pb2:PullMessagesRequest": ["node"],
    "flwr.proto.fleet_pb2:PullMessagesResponse": ["messages_list", "message_object_trees"],
    "flwr.proto.fleet_pb2:PushMessagesRequest": [
        "node",
        "messages_list",
        "message_object_trees",
        "clientapp_runtime_list",
    ],
    "flwr.proto.fleet_pb2:PushMessagesResponse": ["objects_to_push", "session_id"],
    "flwr.proto.heartbeat_pb2:SendNodeHeartbeatRequest": ["node", "heartbeat_interval"],
    "flwr.proto.heartbeat_pb2:SendNodeHeartbeatResponse": ["success"],
    "flwr.proto.message_pb2:PullObjectRequest": ["node", "run_id", "object_id"],
    "flwr.proto.message_pb2:PullObjectResponse": [
        "object_found",
        "object_available",
        "object_content",
    ],
    "flwr.proto.message_pb2:PushObjectRequest": [
        "node",
        "run_id",
        "session_id",
        "object_id",
        "object_content",
    ],
    "flwr.proto.message_pb2:ConfirmMessageReceivedRequest": [
        "node",
        "run_id",
        "message_object_id",
    ],
    "flwr.proto.message_pb2:ObjectTree": ["object_id"],
}
# Calls of the three kinds of client.
METHODS = {
    "flwr.supercore.control:ControlHttpClient": [
        "ListNodes",
        "RegisterNode",
        "UnregisterNode",
        "StartRun",
        "close",
    ],
    "flwr.supercore.runtime:RuntimeHttpClient": [
        "AcquireTask",
        "PullTaskInput",
        "SendTaskHeartbeat",
        "PullMessages",
        "PullObject",
        "ConfirmMessageReceived",
        "PushTaskOutput",
        "close",
    ],
    "flwr.supernode.fleet_http_client:FleetHttpClient": [
        "ActivateNode",
        "DeactivateNode",
        "SendNodeHeartbeat",
        "PullMessages",
        "PushMessages",
        "PullObject",
        "PushObject",
        "ConfirmMessageReceived",
        "close",
    ],
}


def named(name):
    """Return what a name stands for; a failure says which name, and in which version."""
    module, _, path = name.partition(":")
    found = metadata.version("flwr")
    try:
        value = importlib.import_module(module)
        for part in filter(None, path.split(".")):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"flwr {found} has no {name} ({error}); leff was made for {VERSION}")
    return value


def missing(name, what):
    found = metadata.version("flwr")
    return f"{name} of flwr {found} has no {what}; leff was made for {VERSION}"


def imports(path):
    """Yield every name that a module of ours takes from flwr, as ``module:name``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("flwr")
            and "datasets" not in node.module
        ):
            yield from (f"{node.module}:{each.name}" for each in node.names)
        if isinstance(node, ast.Import):
            yield from (f"{each.name}:" for each in node.names if each.name.startswith("flwr."))


def test_flwr_is_the_version_that_we_were_made_for():
    assert metadata.version("flwr") == VERSION
    check_version()


@pytest.mark.parametrize("module", PRIVATE)
def test_every_name_that_we_import_is_there(module):
    names = list(imports(SOURCE / module))
    assert names
    for name in names:
        named(name)


def test_no_other_module_uses_what_is_not_public():
    for path in SOURCE.rglob("*.py"):
        if str(path.relative_to(SOURCE)) in PRIVATE:
            continue
        for name in imports(path):
            module, _, what = name.partition(":")
            assert what in PUBLIC.get(module, ()), f"{path} uses {name}"


@pytest.mark.parametrize("name", CALLS)
def test_what_we_call_takes_what_we_give(name):
    parameters = inspect.signature(named(name)).parameters
    for parameter in CALLS[name]:
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        assert parameter in parameters or takes_any, missing(name, f"parameter {parameter}")


@pytest.mark.parametrize("name", FIELDS)
def test_messages_have_the_fields_that_we_use(name):
    fields = set(named(name).DESCRIPTOR.fields_by_name)
    for field in FIELDS[name]:
        assert field in fields, missing(name, f"field {field}")


@pytest.mark.parametrize("name", METHODS)
def test_clients_have_the_calls_that_we_make(name):
    for method in METHODS[name]:
        assert callable(getattr(named(name), method, None)), missing(name, f"call {method}")


def test_the_parts_of_a_grid_that_we_reach_into_are_there():
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.superlink.grid import HttpGrid

    source = inspect.getsource(HttpGrid)
    for attribute in ("_retry_invoker", "_runtime_client", "node"):
        assert f"self.{attribute}" in source or hasattr(HttpGrid, attribute), missing(
            "HttpGrid", attribute
        )
    invoker = make_simple_http_retry_invoker()
    for attribute in ("max_time", "max_tries", "should_giveup"):
        assert hasattr(invoker, attribute), missing("a retry invoker", attribute)


def test_a_message_and_its_task_take_the_values_that_we_set():
    from flwr.app import Message, RecordDict
    from flwr.common.constant import TIMESTAMP_HEADER, SubStatus
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.task_identity import TaskIdentity

    kept = {name: vars(TaskIdentity).get(f"_{name}") for name in ("task_id", "run_id", "node_id")}
    try:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 2, 3
        message = Message(RecordDict(), 7, "train", ttl=5.0)
    finally:
        for name, value in kept.items():
            setattr(TaskIdentity, f"_{name}", value)
    assert (message.metadata.run_id, message.metadata.src_node_id) == (2, 3)
    assert (message.metadata.dst_node_id, message.metadata.ttl) == (7, 5.0)
    assert {SubStatus.COMPLETED, SubStatus.FAILED} <= set(vars(SubStatus).values())
    from leff.network.relay import SENT  # what the gateway passes on must hold these

    headers = TIMESTAMP_HEADER, FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    assert {name.lower() for name in headers} <= set(SENT)


def test_a_text_survives_flower_s_objects():
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

    from leff.device.connection import Message, _reply
    from leff.wire.flower_texts import Arriving

    asked = Message("an ask", "1", run=2, node=3, server=1, created_at=1e9, seconds=60.0)
    whole, _ = _reply(asked, "an answer, ✓")
    objects = get_all_nested_objects(whole)
    arriving = Arriving(2, get_object_tree(whole))
    assert arriving.fetch(lambda name: objects[name].deflate())
    assert arriving.text == "an answer, ✓"


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # flwr's own
def test_the_app_of_a_run_can_be_packed_and_names_our_client():
    import zipfile
    from io import BytesIO

    from flwr.cli.build import build_fab_from_files

    content, _ = build_fab_from_files(superlink.APP)
    with zipfile.ZipFile(BytesIO(content)) as packed:
        assert {"pyproject.toml", "leff_app/__init__.py"} <= set(packed.namelist())
        made = {}
        exec(packed.read("leff_app/__init__.py"), made)
    from flwr.clientapp import ClientApp

    assert isinstance(made["client"], ClientApp)


@pytest.mark.parametrize("found", ["1.41.0", "1.43.0", None])
def test_another_version_is_refused_with_both_named(monkeypatch, found):
    def version(name):
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(superlink.metadata, "version", version)
    with pytest.raises(NetworkError) as error:
        check_version()
    assert VERSION in str(error.value)
    assert "is not installed" in str(error.value) if found is None else found in str(error.value)
