"""Processes that end when they should: with their parent, and when they are asked to.

Parallel(n_jobs=2, initializer=end_with, initargs=(os.getpid(),))      # in each worker
with terminable():                                                     # in the main process
    run()
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Generator

CHECK_SECONDS = 0.3


def end_with(parent: int) -> None:
    """End this process soon after its parent ends, even if that is killed.

    Ctrl-C reaches all processes of a terminal.  This one leaves it to the parent, which ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


@contextlib.contextmanager
def terminable() -> Generator[None]:
    """Treat SIGTERM as Ctrl-C, so that what a run started ends too."""
    if threading.current_thread() is not threading.main_thread():  # it alone may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
