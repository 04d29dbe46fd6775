"""`leff plan` for a fleet file, a device file, and a device on the command line."""

import json

import pytest

from leff.errors import ConfigError
from leff.runs.config import load_config
from leff.runs.options import RunConfig
from leff.runs.plans import Asked, RoundTime, device_plan, planned, round_time
from leff.wire.messages import Device

FLEET = """
[phone]
count = 4
memory = "1300kB"
speed = "50MFLOP/s"
down = "80kbit/s"
up = "40kbit/s"

[laptop]
memory = "16GB"
speed = "2GFLOP/s"
down = "800kbit/s"
up = "400kbit/s"

[watch]
memory = "64kB"
speed = "1GFLOP/s"
down = "1Mbit/s"
up = "1Mbit/s"
"""
STEP = ("--batch", 8, "--length", 32)
SMALL = load_config(None, {"training.batch_size": 8, "data.max_length": 32})
PHONE = Device("phone", 10**9, 50e6, 10e3, 5e3)


@pytest.fixture
def fleet(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return path


def test_every_class_and_why_one_sits_out(fleet, cli, tiny_gpt2):
    status, printed, _ = cli("plan", tiny_gpt2, *STEP, "--fleet", fleet, "--time", "2min", "--json")
    classes = json.loads(printed)["classes"]
    assert status == 0 and list(classes) == ["phone", "laptop", "watch"]
    assert "within 64,000 bytes; the least that would do" in classes["watch"]["problem"]
    phone, laptop = classes["phone"], classes["laptop"]
    assert phone["count"] == 4 and laptop["layers"] == 4
    assert laptop["step"]["accumulation"] == 1 < phone["step"]["accumulation"]
    assert phone["options"]["training.accumulation"] == phone["step"]["accumulation"]
    for found in (phone, laptop):
        assert found["predicted_bytes"] <= found["memory_bytes"]
        parts = [found[f"{key}_seconds"] for key in ("download", "compute", "upload")]
        assert found["round_seconds"] == pytest.approx(sum(parts)) and sum(parts) <= 120
        assert found["steps"] <= found["all_steps"] == 20
    assert phone["upload_seconds"] == phone["upload_bytes"] / 5e3
    status, printed, _ = cli("plan", tiny_gpt2, *STEP, "--fleet", fleet)
    assert status == 0 and "4 x phone" in printed and "watch sits out: no client" in printed


def test_what_a_choice_costs(fleet, cli, tiny_gpt2):
    arguments = ("--device", fleet, "--class", "laptop", "--method", "fedlora", "--rank", 4)
    status, printed, _ = cli("plan", tiny_gpt2, *STEP, *arguments, "--json")
    found, plan = json.loads(printed), planned(str(tiny_gpt2), "fedlora", SMALL, rank=4)
    assert status == 0 and found["class"] == "laptop"
    assert found["setup_seconds"] == pytest.approx(plan["setup_bytes"] / 100e3)
    assert found["compute_seconds"] == pytest.approx(20 * plan["step_flops"] / 2e9)


def test_on_the_command_line(cli, tiny_gpt2):
    link = ("--speed", "50MFLOP/s", "--down", "80kbit/s", "--up", "40kbit/s")
    values = []
    for memory in ("350kB", "4GB"):
        arguments = ("--memory", memory, "--time", "5min", *link, "--examples", 64)
        status, printed, _ = cli("plan", tiny_gpt2, *STEP, *arguments, "--json")
        values.append(json.loads(printed))
        assert status == 0 and values[-1]["all_steps"] == 8
        assert values[-1].keys() >= {"layers", "context", "predicted_bytes", "step", "options"}
    assert values[0]["layers"] < values[1]["layers"]


def test_a_step_is_counted_as_asked_for(cli, tiny_gpt2, fleet):
    device = ("--device", fleet, "--class", "laptop", "--method", "fedavg", "--json")
    asked = ("--precision", "bfloat16", "--optimizer", "adamw8bit", "--labelled", 0.5)
    leaner = ("--accumulation", 2, "--checkpointing")
    found = []
    for given in ((), asked, (*asked, *leaner)):
        status, printed, _ = cli("plan", tiny_gpt2, *STEP, *device, *given)
        found.append(json.loads(printed))
        assert status == 0 and found[-1]["step"]["batch_size"] == 8
    plain, other, lean = found
    assert lean["predicted_bytes"] < other["predicted_bytes"] != plain["predicted_bytes"]
    assert other["step"] | {"accumulation": 2, "checkpointing": True} == lean["step"]
    assert lean["step_flops"] > other["step_flops"] == plain["step_flops"]
    assert lean["options"] == {
        "method.name": "fedavg",
        "training.batch_size": 8,
        "data.max_length": 32,
        "training.precision": "bfloat16",
        "training.optimizer": "adamw8bit",
        "training.accumulation": 2,
        "training.checkpointing": True,
    }


def test_less_time_takes_fewer_steps_then_sits_out(tiny_gpt2):
    fixed = Asked("leff", {"layers": 1})

    def plan(seconds):
        return device_plan(str(tiny_gpt2), SMALL, PHONE, RoundTime(seconds, 80), fixed)

    free = plan(None)
    assert free["steps"] == 10
    half = plan(free["round_seconds"] - 0.499 * free["compute_seconds"])
    assert half["steps"] == 5 and half["round_seconds"] < free["round_seconds"]
    with pytest.raises(ConfigError, match=r"3 of 10 steps with leff take .* there are 1 s"):
        plan(1.0)


def test_examples_are_the_runs_own():
    assert round_time(RunConfig(), None, None) == RoundTime(None, 160)
    config = RunConfig.model_validate({"data": {"train_examples": "all"}})
    assert round_time(config, 3.0, 20) == RoundTime(3.0, 20)
    with pytest.raises(ConfigError, match="give --examples"):
        round_time(config, None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time", "30s"], "need --memory, --speed, --down, --up too"),
        (["--time", "30 days", "--speed", "1GFLOP/s"], "unknown unit 'days'"),
        (["--fleet", "nowhere.toml"], "there is no fleet file nowhere.toml"),
        (["--fleet", "FLEET", "--memory", "1GB"], "--memory cannot be combined with --fleet"),
        (["--fleet", "FLEET", "--class", "phne"], "no class 'phne'; did you mean 'phone'?"),
        (["--fleet", "FLEET", "--flops", "1G"], "leave it out"),
        (["--fleet", "FLEET", "--examples", "0"], "--examples must be at least 1, got 0"),
        (["--fleet", "FLEET", "--class", "watch"], "within 64,000 bytes; the least"),
        (["--device", "FLEET"], "has several classes (phone, laptop, watch); say which"),
        (["--class", "phone"], "give --fleet or --device"),
        (["--fleet", "FLEET", "--time", "1ms", "--method", "fedavg"], "5 of 20 steps with fedavg"),
        (["--fleet", "FLEET", "--class", "watch", "--method", "fedavg"], "there are 64,000"),
    ],
)
def test_wrong_use(arguments, message, fleet, cli, tiny_gpt2):
    given = [str(fleet) if a == "FLEET" else a for a in arguments]
    status, printed, said = cli("plan", tiny_gpt2, *STEP, *given)
    assert (status, printed) == (2, "") and message in " ".join(said.split())
