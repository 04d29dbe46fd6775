"""WikiText-103 (Merity et al. 2017) in its tokenised form, one document (a paragraph) a line.

load_task("text").train[0]
"""

from pathlib import Path

from leff.tasks.columns import Table
from leff.tasks.sources.files import locate
from leff.tasks.sources.text import read_text, text_task
from leff.tasks.task import Task

_GZ = (".txt", ".txt.gz", ".tokens")
FILES = {
    "train": tuple(f"{s}{e}" for s in ("train", "wiki.train", "train_slice") for e in _GZ),
    "validation": tuple(f"{s}{e}" for s in ("valid", "wiki.valid", "validation") for e in _GZ),
    "test": tuple(f"{s}{e}" for s in ("test", "wiki.test") for e in _GZ),
}
HUB = ("Salesforce/wikitext", "wikitext-103-v1")


def load(folder: Path | None = None) -> Task:
    """Load WikiText-103 from a folder or the hub."""
    public = locate("text", folder, ("wikitext103", "wikitext-103", "."), FILES)
    return text_task({s: read_text(path) for s, path in public.items()}) if public else _from_hub()


def _from_hub() -> Task:
    from leff.tasks.sources.hub import fetch

    splits = {
        name: Table({"text": [text for text in part["text"] if text.strip()]})
        for name, part in fetch(*HUB).items()
    }
    return Task("text", "text", splits["train"], splits["validation"], splits.get("test"))
