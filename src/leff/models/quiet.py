"""Keep the library's progress bars and loading reports off the user's terminal.

with quiet(): model = AutoModelForCausalLM.from_pretrained(name)
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from io import StringIO

from transformers.utils import logging as library_logging


@contextmanager
def quiet() -> Generator[None]:
    """Show only errors of transformers and of the hub's client during the body."""
    hub = logging.getLogger("huggingface_hub")
    verbosity, hub_level = library_logging.get_verbosity(), hub.level
    bars = library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library_logging.set_verbosity(verbosity)
        hub.setLevel(hub_level)
        if bars:
            library_logging.enable_progress_bar()


def without_bar() -> redirect_stderr[StringIO]:
    """Return a context without the bar of reading a GGUF file, which no option turns off."""
    return redirect_stderr(StringIO())
