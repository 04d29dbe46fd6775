"""Conversations in the columns that people have them in, as messages of a role and a content.

    if columns := chat_columns(rows.columns):       # ("messages",), or another of `FORMS`
        conversations(rows)                         # [[{"role": "user", "content": ...}, ...], ...]

| Columns | Known as |
|---|---|
| ``messages``: a list of ``role`` and ``content`` | OpenAI's and Hugging Face's form |
| ``conversations``: a list of ``from`` and ``value`` | ShareGPT |
| ``instruction``, ``output``, and perhaps ``input`` | Alpaca |
| ``prompt`` and ``completion``, texts or lists of messages | TRL's form |

A column ``system`` beside them is the system turn of rows that have none.
"""

import json
import logging
from collections.abc import Collection
from typing import Any, cast

from leff.errors import DataError, nearest, shown
from leff.tasks.sources.rows import Rows

log = logging.getLogger("leff.tasks.load")

FORMS: dict[tuple[str, ...], str] = {
    ("messages",): "messages of a role and a content",
    ("conversations",): "ShareGPT's conversations",
    ("instruction", "output"): "Alpaca's instruction, input and output",
    ("prompt", "completion"): "a prompt and its completion",
}
COLUMNS = ("messages", "conversations", "instruction", "output", "prompt", "completion", "system")
ROLES = {  # in messages and in ShareGPT's conversations
    **{role: role for role in ("system", "user", "assistant")},
    **{"human": "user", "gpt": "assistant", "developer": "system", "model": "assistant"},
}
Messages = list[dict[str, str]]


def chat_columns(names: Collection[str]) -> tuple[str, ...]:
    """Return the columns that make conversations, of these; () if there are none."""
    return next((columns for columns in FORMS if set(columns) <= set(names)), ())


def conversations(rows: Rows) -> list[Messages]:
    """Return every row's conversation: perhaps a system turn, then questions and answers in turn.

    A first answer without a question is left out, and so is a last question without an answer;
    their numbers are logged.  Raises DataError, with file and row, for a row that is no
    conversation: a role or a value of another kind, a blank content, two turns of one role, or no
    answer.
    """
    columns = chat_columns(rows.columns)
    if not columns:
        raise DataError(
            f"{rows.path} has no column of conversations; name yours, such as columns = "
            "{messages = '...'} under [data]"
        )
    system = rows.columns.get("system", [None] * len(rows))
    found: list[Messages] = []
    cut = [0, 0]
    for i in range(len(rows)):
        talk = _turns(rows, columns, i)
        if talk[0]["role"] != "system" and isinstance(system[i], str) and system[i].strip():
            talk = [{"role": "system", "content": system[i]}, *talk]
        found.append(_checked(rows, i, talk, cut))
    for count, what in zip(cut, ("begin with an answer", "end with a question"), strict=True):
        if count:
            log.info("%s: %d conversations %s, which is left out", rows.path, count, what)
    return found


def _turns(rows: Rows, columns: tuple[str, ...], i: int) -> Messages:
    if columns == ("messages",):
        return _listed(rows, i, "messages", ("role", "content"))
    if columns == ("conversations",):
        names = ("role", "content") if _has_roles(rows.columns["conversations"][i]) else ()
        return _listed(rows, i, "conversations", names or ("from", "value"))
    if columns == ("instruction", "output"):
        more = rows.columns.get("input", [None] * len(rows))[i]
        if more is not None and not isinstance(more, str):
            raise DataError(f"{rows.where(i)}: 'input' must be text, got {shown(more)}")
        parts = [_text(rows, i, "instruction"), more or ""]
        question = "\n\n".join(part for part in parts if part.strip())
        return _pair(question, _text(rows, i, "output"))
    prompt, completion = (rows.columns[name][i] for name in columns)
    if isinstance(prompt, str) and not _is_list(prompt):
        return _pair(_text(rows, i, "prompt"), _text(rows, i, "completion"))
    asked = _listed(rows, i, "prompt", ("role", "content"))
    if isinstance(completion, str) and not _is_list(completion):
        return [*asked, {"role": "assistant", "content": completion}]
    return [*asked, *_listed(rows, i, "completion", ("role", "content"))]


def _pair(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _text(rows: Rows, i: int, name: str) -> str:
    value = rows.columns[name][i]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{rows.where(i)}: {name!r} must be a text, got {shown(value)}")
    return value


def _is_list(text: str) -> bool:
    """Return whether a text is a JSON list, as a CSV file has to hold one."""
    return text.lstrip().startswith("[{")


def _has_roles(turns: Any) -> bool:
    first: Any = cast("list[Any]", turns)[0] if isinstance(turns, list) and turns else None
    return isinstance(first, dict) and "role" in first


def _listed(rows: Rows, i: int, column: str, names: tuple[str, str]) -> Messages:
    """Return a column's list of turns as messages; a text must be such a list in JSON."""
    value: Any = rows.columns[column][i]
    if isinstance(value, str) and _is_list(value):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{rows.where(i)}: {column!r} is no JSON ({error})") from None
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{rows.where(i)}: {column!r} must be a list of turns, got {shown(cast(Any, value))}"
        )
    found: Messages = []
    for turn in cast("list[Any]", value):
        fields = cast("dict[str, Any]", turn) if isinstance(turn, dict) else {}
        role, content = (fields.get(name) for name in names)
        if type(role) is not str or type(content) is not str:
            raise DataError(
                f"{rows.where(i)}: a turn in {column!r} must have the texts {names[0]!r} and "
                f"{names[1]!r}, got {shown(cast(Any, turn))}"
            )
        if role not in ROLES:
            raise DataError(
                f"{rows.where(i)}: no role is called {role!r}{nearest(role, tuple(ROLES))}"
            )
        found.append({"role": ROLES[role], "content": content})
    return found


def _checked(rows: Rows, i: int, talk: Messages, cut: list[int]) -> Messages:
    """Return a conversation whose turns alternate, from a question to an answer."""
    start = [m for m in talk[:1] if m["role"] == "system" and m["content"].strip()]
    turns = talk[1:] if talk[0]["role"] == "system" else talk
    if turns and turns[0]["role"] == "assistant":
        cut[0], turns = cut[0] + 1, turns[1:]
    if turns and turns[-1]["role"] == "user":
        cut[1], turns = cut[1] + 1, turns[:-1]
    for before, turn in zip([None, *turns], turns, strict=False):
        if turn["role"] == "system":
            raise DataError(f"{rows.where(i)}: a system turn must be the first one")
        if before is not None and before["role"] == turn["role"]:
            raise DataError(
                f"{rows.where(i)}: two turns of the {turn['role']} follow each other; join them"
            )
        if not turn["content"].strip():
            raise DataError(f"{rows.where(i)}: a turn of the {turn['role']} is empty")
    if not turns:
        raise DataError(
            f"{rows.where(i)}: the conversation has no answer to a question; leave it out"
        )
    return [*start, *turns]
