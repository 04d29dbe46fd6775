"""Conversations in all the columns that people have them in, and what is wrong with some."""

import json
import logging

import pytest

from leff.errors import DataError
from leff.tasks.sources.conversations import chat_columns, conversations
from leff.tasks.sources.rows import Rows

ASKED = {"role": "user", "content": "How far?"}
SAID = {"role": "assistant", "content": "Two miles."}
BRIEF = {"role": "system", "content": "Be brief."}
SHARED = [{"from": "human", "value": "How far?"}, {"from": "gpt", "value": "Two miles."}]


def rows(**columns):
    (count,) = {len(values) for values in columns.values()}
    return Rows("talks.jsonl", columns, range(1, count + 1))


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"messages": [[ASKED, SAID]]}, [ASKED, SAID]),
        ({"messages": [[BRIEF, ASKED, SAID, ASKED, SAID]]}, [BRIEF, ASKED, SAID, ASKED, SAID]),
        ({"messages": [json.dumps([ASKED, SAID])]}, [ASKED, SAID]),
        ({"conversations": [SHARED]}, [ASKED, SAID]),
        ({"conversations": [[ASKED, SAID]]}, [ASKED, SAID]),
        ({"conversations": [SHARED], "system": ["Be brief."]}, [BRIEF, ASKED, SAID]),
        ({"conversations": [SHARED], "system": [None]}, [ASKED, SAID]),
        ({"instruction": ["How far?"], "input": [""], "output": ["Two miles."]}, [ASKED, SAID]),
        ({"instruction": ["How far?"], "input": [None], "output": ["Two miles."]}, [ASKED, SAID]),
        ({"instruction": ["How far?"], "output": ["Two miles."]}, [ASKED, SAID]),
        (
            {"instruction": ["Add."], "input": ["1, 2"], "output": ["3"]},
            [{"role": "user", "content": "Add.\n\n1, 2"}, {"role": "assistant", "content": "3"}],
        ),
        ({"prompt": ["How far?"], "completion": ["Two miles."]}, [ASKED, SAID]),
        ({"prompt": [[BRIEF, ASKED]], "completion": [[SAID]]}, [BRIEF, ASKED, SAID]),
        ({"prompt": [[ASKED]], "completion": ["Two miles."]}, [ASKED, SAID]),
        ({"messages": [[SAID, ASKED, SAID, ASKED]]}, [ASKED, SAID]),
        ({"messages": [[{**BRIEF, "content": " "}, ASKED, SAID]]}, [ASKED, SAID]),
    ],
)
def test_every_form(columns, wanted):
    assert chat_columns(columns)
    assert conversations(rows(**columns)) == [wanted]


def test_what_is_left_out_is_counted(caplog):
    caplog.set_level(logging.INFO)
    conversations(rows(messages=[[SAID, ASKED, SAID], [ASKED, SAID, ASKED], [ASKED, SAID]]))
    assert "1 conversations begin with an answer" in caplog.text
    assert "1 conversations end with a question" in caplog.text


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"messages": [[ASKED, SAID], []]}, "line 2: 'messages' must be a list of turns"),
        ({"messages": ["How far?"]}, "line 1: 'messages' must be a list of turns"),
        ({"messages": ["[{broken"]}, "line 1: 'messages' is no JSON"),
        ({"messages": [[{"role": "tool", "content": "x"}]]}, "no role is called 'tool'"),
        ({"messages": [[{"role": "asistant", "content": "x"}]]}, "mean 'assistant'"),
        ({"messages": [[{"role": "user"}]]}, "must have the texts 'role' and 'content'"),
        ({"messages": [[{"role": "user", "content": 3}]]}, "must have the texts"),
        ({"messages": [["How far?"]]}, "must have the texts"),
        ({"messages": [[ASKED]]}, "no answer to a question"),
        ({"messages": [[SAID]]}, "no answer to a question"),
        ({"messages": [[BRIEF]]}, "no answer to a question"),
        ({"messages": [[ASKED, ASKED, SAID]]}, "two turns of the user follow each other"),
        ({"messages": [[ASKED, BRIEF, SAID]]}, "a system turn must be the first one"),
        ({"messages": [[ASKED, {**SAID, "content": " "}]]}, "a turn of the assistant is empty"),
        ({"conversations": [[{"from": "human"}]]}, "must have the texts 'from' and 'value'"),
        ({"instruction": [""], "output": ["a"]}, "'instruction' must be a text"),
        ({"instruction": ["a"], "output": [None]}, "'output' must be a text"),
        ({"instruction": ["a"], "input": [4], "output": ["a"]}, "'input' must be text, got 4"),
        ({"prompt": ["a"], "completion": [" "]}, "'completion' must be a text"),
        ({"text": ["a"]}, "no column of conversations; name yours"),
    ],
)
def test_what_is_no_conversation(columns, said):
    with pytest.raises(DataError, match=r"^talks\.jsonl") as error:
        conversations(rows(**columns))
    assert said in str(error.value)
