"""The page of a run while it goes on, served by the process that runs it.

with PageBeside(say=print) as page:
    leff.run("my.toml", progress=Together([table, page]))
"""

import threading
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

from leff.record import RoundRecord
from leff.show.pages import Pages
from leff.show.server import PageServer, served_at
from leff.show.sources import Sources

if TYPE_CHECKING:
    from leff.methods.method import Plan
    from leff.runs.federation import Federation
    from leff.wire.messages import Update

LOOPBACK = "127.0.0.1"
END_SECONDS = 5.0  # for the server to end


class PageBeside:
    """A `Progress` that serves the run's page on this machine, and opens it in a browser."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._server: PageServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "PageBeside":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join(END_SECONDS)

    def started(self, federation: "Federation") -> None:
        folder = federation.folder.path
        self._server = PageServer(Pages(Sources([folder])), served_at(LOOPBACK, 0))
        self._thread = threading.Thread(target=self._server.run, daemon=True, name="page")
        self._thread.start()
        address = self._server.at.address()
        self._say(f"{address}  (until the run ends; then `leff show {folder}`)")
        webbrowser.open(address)

    def measured(self, record: RoundRecord) -> None: ...
    def planned(self, index: int, plan: "Plan") -> None: ...
    def trained(self, index: int, update: "Update") -> None: ...
