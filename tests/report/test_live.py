"""The live table, on a terminal and off it, and what is printed at the end."""

import io
import math
from types import SimpleNamespace

import pytest
from made_up_records import client_record as client
from made_up_records import round_record
from rich.console import Console

from leff.report.live import LiveTable, bytes_text, print_result, print_rows, trained_layers
from leff.runs.options import RunConfig


def record(number, **more):
    if not number:
        return round_record(0, loss=3.5, metric=0.01)
    values = {
        "train_loss": 2.25,
        "loss": 1.5,
        "metric": 0.25,
        "download_bytes": 1_230_000,
        "upload_bytes": 4_500,
        "seconds": 30.0,
        "clients": (client(0, [3]), client(1, [4, 5])),
    }
    return round_record(number, **values | more)


def federation(name="sample", rounds=3, devices=(), privacy=None, **sections):
    config = RunConfig.model_validate(
        {"model": {"name": name}, "training": {"rounds": rounds, "learning_rate": 4e-3}} | sections
    )
    return SimpleNamespace(
        config=config,
        metric="BLEU",
        on_devices=SimpleNamespace() if config.evaluation.where != "server" else None,
        task=SimpleNamespace(name="sample", train=range(10), validation=range(40), test=None),
        clients=SimpleNamespace(
            split=SimpleNamespace(indices=[[1, 2], [3]], moved=2, by="area"),
            layers=(1, 2),
            devices=devices,
        ),
        folder=SimpleNamespace(path="runs/a[b]"),
        privacy=privacy,
    )


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({}, "capacities 1 2 layers"),
        (
            {"context": {"name": "auto"}, "clients": {"memory": ["4MB"], "flops": ["1G"]}},
            "memory 4MB, a step's operations 1G",
        ),
        ({"method": {"name": "fedavg"}}, "every client trains all layers"),
        ({"evaluation": {"where": "devices"}}, "measured on what each client holds out\n"),
        ({"evaluation": {"where": "both"}}, "and by each client on what it holds out\n"),
        ({"method": {"name": "fedlora"}}, "every client holds the whole model"),
        ({"method": {"name": "flora", "rank": 4}}, "adapters of rank 4\n"),
        (
            {"method": {"name": "flexlora", "rank": 4}, "clients": {"memory": ["4MB"]}},
            "adapters of rank 4 at most, by memory",
        ),
        (
            {"method": {"name": "flexlora"}, "clients": {"ranks": [1, 2], "memory": ["4MB"]}},
            "adapters of rank 1 2\n",
        ),
    ],
)
def test_the_head_says_what_clients_can_do(sections, said):
    file = io.StringIO()
    with LiveTable(Console(file=file, width=200)) as table:
        table.started(federation(**sections))
    assert said in file.getvalue()


def watch(terminal, rounds=3, height=40, **more):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, height=height)
    with LiveTable(console) as table:
        table.started(federation(rounds=rounds))
        assert table.folder == "runs/a[b]"
        for number in range(rounds + 1):
            if number:
                table.planned(number - 1, SimpleNamespace(jobs=[1, 2]))
                table.trained(number - 1, None)
                if terminal:
                    table._live.refresh()  # as its clock would
            table.measured(record(number, **(more if number else {})))
    return file.getvalue()


def test_a_line_a_round_without_a_terminal():
    lines = watch(False).splitlines()
    assert "\x1b" not in "".join(lines)
    assert "2 clients, 1 to 2 examples each" in lines[1] and "2 moved" in lines[1]
    assert lines[2] == "3 of 10 training rows, texts up to 96 tokens, learning rate 0.004"
    assert lines[3] == "measured on 40 of 40 validation rows, at the end on 40 of 40"
    assert lines[4] == "run folder runs/a[b]"
    assert lines[5] == "round 0  loss 3.5000  BLEU 0.0100"
    assert lines[6] == (
        "round 1  train 2.2500  loss 1.5000  BLEU 0.2500  layers 0:3 1:4-5  "
        "down 1.2 MB  up 4.5 kB  seconds 30.0  left 1:00"
    )
    assert lines[8].endswith("left 0:00") and len(lines) == 9


def test_a_table_on_a_terminal():
    text = watch(True)
    assert "client:layers trained" in text and "1 of 2 clients done" in text
    last = text[text.rindex("client:layers trained") :]
    assert [line.split()[0] for line in last.splitlines()[1:5]] == ["0", "1", "2", "3"]
    assert "clients done" not in last


def test_a_long_run_shows_its_last_rounds_and_all_of_them_at_the_end():
    text = watch(True, rounds=30, height=12)
    frames = text.split("client:layers trained")
    last = [line.split()[0] for line in frames[-1].splitlines()[1:32]]
    assert last == [str(number) for number in range(31)]
    during = [line.split() for line in frames[-2].splitlines()[1:]]
    assert [row[0] for row in during if row and row[0].isdigit()] == [
        str(number) for number in range(22, 30)
    ]


def test_rounds_without_a_measurement():
    assert "round 1  train 2.2500  layers" in watch(False, loss=None, metric=None)
    assert watch(True, loss=None, metric=None)


def test_an_error_ends_the_table():
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(ValueError), LiveTable(console) as table:
        table.started(federation())
        raise ValueError
    assert not getattr(console, "_live_stack", None)  # a list in rich 14.1, before that one display
    assert not getattr(console, "_live", None)


def test_a_models_name_is_no_markup():
    file = io.StringIO()
    with LiveTable(Console(file=file, width=120)) as table:
        table.started(federation(name="me/[bold]x"))
    assert "me/[bold]x" in file.getvalue()


def test_trained_layers():
    assert trained_layers([]) == ""
    few = [client(0, [3]), client(2, [4, 5]), client(3, [1], "NaN")]
    assert trained_layers(few) == "0:3 2:4-5 3:refused (1 refused)"
    many = [client(i, [i % 2]) for i in range(11)] + [client(11, [3]), client(12, [5], "NaN")]
    assert trained_layers(many) == "13 clients; by layer 6 5 0 1 (1 refused)"
    refused = [client(i, [0], "NaN") for i in range(11)]
    assert trained_layers(refused).endswith("(11 refused)")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (17_800_000, "17.8 MB"), (2e12, "2.0 TB")],
)
def test_bytes_text(count, text):
    assert bytes_text(count) == text


def result(texts):
    metrics = {"BLEU": 0.5, "METEOR": None}
    after = {
        "split": "test",
        "examples": 6,
        "loss": 1.0,
        "metrics": metrics,
        "notes": {"METEOR": "not computed (pip install leff[java])"},
        "texts": texts,
    }
    return {"before": {**after, "metrics": {"BLEU": 0.125, "METEOR": None}}, "after": after}


def test_print_result():
    file = io.StringIO()
    texts = [
        {"input": f"in {i} [x]", "output": f"out {i}", "references": [f"ref {i}", "other"]}
        for i in range(5)
    ]
    places = {"model": "runs/x/model", "picture": "runs/x/rounds.png"}
    print_result(Console(file=file, width=100), result(texts), places)
    text = file.getvalue()
    assert "test, 6 examples" in text
    assert "BLEU" in text and "0.1250" in text and "0.5000" in text
    assert "pip install leff[java]" in text  # brackets are no markup
    assert text.count("input") == text.count("reference ") == 3 and "in 0 [x]" in text
    assert text.endswith("model     runs/x/model\npicture   runs/x/rounds.png\n")
    print_result(Console(file=file, width=100), result([]), places)


def test_print_rows_leaves_nothing_out():
    file = io.StringIO()
    long = "runs/" + "x" * 60 + "[y]"
    print_rows(Console(file=file, width=40), [{"run": long, "value": 0.5, "none": None}])
    text = file.getvalue()
    assert "0.5000" in text and "…" not in text
    assert "".join(text.split()).count("x") == 60 and "[y]" in text


def test_the_virtual_clock_has_a_column_where_there_is_a_fleet():
    file = io.StringIO()
    phones = [SimpleNamespace(name="phone")] * 2
    late = {"round_seconds_simulated": 9.75, "idle_share": 0.4, "sat_out": {"1": "too late"}}
    with LiveTable(Console(file=file, width=200)) as table:
        table.started(federation(devices=[*phones, SimpleNamespace(name="laptop")]))
        table.measured(record(0))
        table.measured(record(1, **late))
        table.measured(record(2, sat_out={"0": "a", "1": "b"}, clients=()))
    said = file.getvalue()
    assert "2 phone, 1 laptop" in said
    assert "simulated 9.8 s, 40% idle, 1 sat out" in said and "simulated 0.0 s, 2 sat out" in said


def test_what_was_spent_has_a_column():
    file = io.StringIO()
    with LiveTable(Console(file=file, width=200)) as table:
        table.started(federation(privacy=SimpleNamespace()))
        table.measured(record(1, epsilon=2.345))
        table.measured(record(2))
    first, second = file.getvalue().splitlines()[-2:]
    assert "epsilon 2.35" in first or "epsilon 2.34" in first
    assert "epsilon" not in second


def test_what_devices_measured_has_a_column():
    """The loss over all of them and the worst one; nothing in a round that was not measured."""
    file, worst = io.StringIO(), {"client": 3, "loss": 2.5, "metric": 0.1}
    with LiveTable(Console(file=file, width=200)) as table:
        table.started(federation(evaluation={"where": "both"}))
        table.measured(record(1, devices={"loss": 1.25, "worst": worst}))
        table.measured(record(2, devices={"loss": math.nan, "worst": None}))
        table.measured(record(3))
    first, second, third = file.getvalue().splitlines()[-3:]
    assert "devices 1.2500, worst 3: 2.5000" in first
    assert "devices nan  left" in second and "devices" not in third
