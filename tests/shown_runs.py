"""Run folders that nobody ran, for pages of runs: three layers trained by three clients."""

import json

from made_up_records import client_record as client
from made_up_records import round_record

from leff.files import sealed
from leff.runs.options import RunConfig
from leff.runs.toml import commented_toml

HOSTILE = '</script><script>alert("x")</script>\u2028'


def record(number, **more):
    clients = (
        client(0, [0, 1], norms=(3.0, 4.0)),
        client(1, [1], norms=(2.0,)),
        client(2, [2], "lost"),
    )
    given = {"layer_scores": [0.5, 0.1, 0.2, 0.2], "context_error": {"2-3": 0.03}, "seconds": 2.0}
    given |= {
        "loss": 2.0 - number / 10,
        "metric": number / 10,
        "clients": clients if number else (),
    }
    given |= {"download_bytes": 100, "upload_bytes": 10} if number else {}
    text = {"input": HOSTILE, "output": f"out {number // 2}", "references": ["ref"]}
    return round_record(number, texts=[text], **given, **more)


def append(folder, *records):
    with (folder / "rounds.jsonl").open("a") as file:
        for each in records:
            file.write(json.dumps(sealed(each.to_dict())) + "\n")


def run_folder(path, **options):
    """Make a run of four rounds, of which two are done."""
    path.mkdir(parents=True)
    config = RunConfig.model_validate({"training": {"rounds": 4}, "seed": 7, **options})
    (path / "config.toml").write_text(commented_toml(config))
    append(path, record(0), record(1), record(2))
    return path
