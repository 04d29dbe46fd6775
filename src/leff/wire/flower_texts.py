"""A text as Flower carries it, for the two modules that speak to a SuperLink.

    record(text)                        # the content of a message
    arriving = Arriving(run, tree)      # announced; its objects may come later
    arriving.fetch(pull)                # True once all objects are here
    arriving.text                       # None if it is no text of ours

Flower splits a message into objects, which are named by their content and sent one by one.
"""

from collections.abc import Callable
from typing import Any

KEY = "leff"  # of the one text in a message
MOST_OBJECTS = 16  # of a message; one with a text has three


def record(text: str) -> Any:
    """Return a text as the content of a Flower message."""
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({KEY: ConfigRecord({KEY: text})})


class Arriving:
    """A message whose objects are being fetched."""

    def __init__(self, run: int, tree: Any) -> None:
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

        self.run, self.id = run, tree.object_id
        self._missing = [each.object_id for each in iterate_object_tree(tree)]
        self._contents: dict[str, bytes] = {}

    def fetch(self, pull: Callable[[str], bytes | None]) -> bool:
        """Fetch what is missing; `pull` returns None for an object that is not there yet."""
        while self._missing and len(self._contents) <= MOST_OBJECTS:
            content = pull(self._missing[-1])
            if content is None:
                return False
            self._contents[self._missing.pop()] = content
        return True

    @property
    def text(self) -> str | None:
        """The text, or None if the message has none, or is not what its name says."""
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        try:
            message: Any = inflate_object_from_contents(self.id, self._contents)
            text = message.content[KEY][KEY]
        except Exception:  # whatever flwr raises for bytes that are no message
            return None
        return text if isinstance(text, str) else None
