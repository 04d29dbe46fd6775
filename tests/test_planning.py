"""`leff plan`: what a method costs, and what a budget has room for."""

import json
import tomllib

import pytest

from leff.config import RunConfig, load_config
from leff.context import make_context
from leff.cost import plan
from leff.errors import ConfigError
from leff.families import load_config as known_config
from leff.planning import chosen, planned


def test_defaults_are_a_runs_own():
    run = RunConfig()
    asked = run.context
    wanted = plan(
        *known_config("gpt2"),
        "leff",
        context=make_context(asked.name, rate=asked.rate, bits=asked.bits, suffix=asked.suffix),
        embedding_bits=asked.embedding_bits,
        batch_size=run.training.batch_size,
        length=run.data.max_length,
    )
    found = planned("gpt2", "leff", run)
    assert found == {**wanted.to_dict(), "context": asked.name}
    fedavg = planned("gpt2", "fedavg", run)
    assert fedavg["context"] is None
    assert fedavg["weights"]["embeddings"] == (50257 + 1024) * 768 * 4


def test_what_is_chosen_is_what_its_options_cost(cli):
    found = chosen("gpt2", RunConfig(), memory="500MB", flops="500G")
    assert found["predicted_bytes"] <= 500_000_000 and found["step_flops"] <= 500 * 10**9
    text = dict(found["options"])
    (layers,) = text.pop("clients.layers")
    again = planned("gpt2", "leff", load_config(None, text), layers=layers)
    assert layers == found["layers"]
    assert again["total_bytes"] == found["predicted_bytes"]
    assert again["step_flops"] == found["step_flops"]


def test_more_memory_has_no_more_error():
    plain = load_config(None, {"context.embedding_bits": 32})
    found = [chosen("gpt2", plain, memory=f"{size}MB") for size in (284, 350, 800, 1600)]
    errors = [choice["assumed_error"] for choice in found]
    assert errors[0] > errors[1] and errors == sorted(errors, reverse=True)
    assert (found[-1]["layers"], errors[-1]) == (12, 0)  # FedAvg's own size fits


def test_nothing_fits():
    with pytest.raises(ConfigError, match=r"fits into 1,000,000 bytes; the least .* is 2\d\d,"):
        chosen("gpt2", RunConfig(), memory="1MB")


def test_as_json_and_for_a_reader(cli):
    status, printed, _ = cli("plan", "gpt2", "--memory", "400MB", "--json")
    value = json.loads(printed)
    assert status == 0
    assert value.keys() >= {"layers", "context", "predicted_bytes", "step_flops"}
    status, printed, _ = cli("plan", "gpt2", "--memory", "400MB", "--flops", "2T")
    assert status == 0 and f"in place of the others: {value['context']}" in printed
    (command,) = [line for line in printed.splitlines() if line.startswith("leff run")]
    assert "--model gpt2" in command and f"clients.layers=[{value['layers']}]" in command
    pairs = [pair.split("=", 1) for pair in command.split("--set ")[1:]]
    for key, text in pairs:
        assert key in value["options"] and text.strip()
    assert tomllib.loads(f"x = {dict(pairs)['clients.layers']}")["x"] == [value["layers"]]
    status, printed, _ = cli("plan", "gpt2")
    assert status == 0 and "GFLOP in a training step" in printed and "total_bytes" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "64MBs"], "unknown unit 'MBs'; known are B, kB, MB, GB, KiB, MiB, GiB"),
        (["--flops", "64MB"], "unknown unit 'MB'; known are k, M, G, T"),
        (["--memory", "1GB", "--layers", "2"], "leave out --method, --layers"),
        (["--flops", "1G", "--method", "fedavg"], "leave out --method"),
        (["--context", "distill"], "did you mean 'distil'"),
        (["--rate", "0"], "context.rate must be above 0"),
        (["--bits", "5"], "context.bits cannot be 5"),
        (["--layers", "13"], "layers must be 1 to 12 for this gpt2, got 13"),
    ],
)
def test_wrong_use(arguments, message, cli):
    status, printed, said = cli("plan", "gpt2", *arguments)
    assert (status, printed) == (2, "") and message in said
