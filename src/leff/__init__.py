"""LEFF: federated fine-tuning in which every device trains only as many layers as it can afford.

    import leff
    run = leff.run("e2e.toml")
    print(run.before, run.after)

Modules are imported when they are first used, so `import leff` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leff.api import (
        Run,
        compare,
        evaluate,
        export,
        generate,
        mmlu,
        plan,
        predict,
        resume,
        run,
    )
    from leff.runs.config import load_config
    from leff.runs.options import RunConfig

__version__ = "0.1.0"

__all__ = [
    "Run",
    "RunConfig",
    "compare",
    "evaluate",
    "export",
    "generate",
    "load_config",
    "mmlu",
    "plan",
    "predict",
    "resume",
    "run",
]
_HOMES = dict.fromkeys(__all__, "leff.api") | {
    "RunConfig": "leff.runs.options",
    "load_config": "leff.runs.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'leff' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
