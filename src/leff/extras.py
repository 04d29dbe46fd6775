"""Packages that only some uses of LEFF need, and the extra of `pip install` that brings each.

need("server")             # before the work; UsageError if a package is missing
advice("flwr")             # "pip install 'leff[device]'"; None for a package that all have
"""

from importlib.util import find_spec

from leff.errors import UsageError

EXTRAS = {  # an extra, and the packages that we import of it, as `import` names them
    "parquet": ("pyarrow",),
    "device": ("cryptography", "flwr", "httpx"),
    "server": (
        "datasets", "flwr_datasets", "joblib", "matplotlib", "sacrebleu", "scipy", "sklearn",
    ),
    "show": ("starlette", "uvicorn"),
    "simulation": ("ray",),
    "gguf": ("gguf",),
    "java": ("pycocoevalcap",),
    "mlflow": ("mlflow",),
    "privacy": ("opacus",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}  # fmt: skip
_EXTRA_OF = {package: extra for extra, packages in EXTRAS.items() for package in packages}


def advice(package: str) -> str | None:
    """Return the command that installs a package, or None if no extra has it."""
    extra = _EXTRA_OF.get(package)
    return None if extra is None else f"pip install 'leff[{extra}]'"


def need(extra: str, what: str = "this") -> None:
    """Raise UsageError, with the command to type, unless all packages of an extra are there."""
    for package in EXTRAS[extra]:
        if find_spec(package) is None:
            raise UsageError(f"{what} needs the package {package}; {advice(package)}")
