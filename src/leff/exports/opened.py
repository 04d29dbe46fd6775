"""A finished run, opened to be exported: its model, and the model that it began with.

opened = open_finished(Path("runs/e2e"))
trained, tokenizer = opened.trained()
start = opened.start()
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leff.errors import DataError
from leff.models import full_state, load_model
from leff.runs.folder import RunFolder
from leff.runs.options import RunConfig
from leff.runs.sources import start_model
from leff.wire.tensors import tensors_digest


@dataclass(frozen=True)
class FinishedRun:
    """A finished run whose model is what the run wrote."""

    folder: RunFolder
    config: RunConfig
    result: dict[str, Any]

    @property
    def model_folder(self) -> Path:
        return self.folder.path / "model"

    @property
    def kind(self) -> str:
        """The kind of task."""
        return self.folder.environment()["kind"]

    def trained(self) -> tuple[Any, Any]:
        """Return the model after the run, in fp32, and its tokenizer."""
        return load_model(self.model_folder, self.kind)

    def start(self) -> Any:
        """Return the model before the run, in fp32.

        Raises DataError if it is not the one that the run began with.
        """
        model = start_model(self.config, self.kind, self.result.get("labels", ()))[0]
        if tensors_digest([full_state(model)]) != self.folder.environment()["model_digest"]:
            raise DataError(
                f"{self.config.model.name} is not the model that {self.folder.path} began with; "
                "put that one back"
            )
        return model


def open_finished(path: Path) -> FinishedRun:
    """Return a finished run, by its folder or its model's.  Raises as `RunFolder.open_finished`."""
    within = path.name == "model" and not (path / "config.toml").exists()
    return FinishedRun(*RunFolder.open_finished(path.parent if within else path))
