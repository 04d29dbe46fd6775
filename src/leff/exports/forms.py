"""The forms in which a run's model can be exported, and what is checked before each.

write(Path("runs/walks"), {"gguf": "walks.gguf"}, "q8_0")
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from leff.errors import ConfigError, nearest, shown
from leff.exports.folder import write_difference, write_merged
from leff.exports.opened import open_finished
from leff.files import expanded

DTYPES = {  # that a form can have, the default first
    "merged": ("float32", "float16", "bfloat16"),
    "adapter": ("float32",),
    "difference": ("float32",),
    "gguf": ("float32", "float16", "bfloat16", "q8_0"),
    "hub": ("float32",),
}
SUFFIXES = {"difference": ".safetensors", "gguf": ".gguf"}


def write(
    run: Path, given: Mapping[str, Any], dtype: str = "float32", private: bool = True
) -> dict[str, Any]:
    """Write a run's model in the one form that `given` has a place for; see `leff.api.export`."""
    asked = {form: place for form, place in given.items() if place is not None}
    if len(asked) != 1:
        options = ", ".join(f"--{form}" for form in DTYPES)
        raise ConfigError(f"give one of {options}, got {len(asked)}")
    ((form, place),) = asked.items()
    if dtype not in DTYPES[form]:
        raise ConfigError(
            f"--dtype of --{form} cannot be {shown(dtype)}{nearest(dtype, DTYPES[form])}"
        )
    result: dict[str, Any] = {"form": form}
    if form == "hub":
        from leff.exports.hub import check_repository, upload

        check_repository(place)
        return {**result, "place": upload(open_finished(run), place, private)}
    out = _free(form, expanded(place))
    opened = open_finished(run)
    if form == "merged":
        write_merged(opened, out, cast("Any", dtype))
    elif form == "adapter":
        from leff.exports.adapter import write_adapter

        result["rank"] = write_adapter(opened, out)
    elif form == "difference":
        result["tensors"] = write_difference(opened, out)
    else:
        from leff.exports.gguf import write_gguf  # needs the extra `gguf`

        write_gguf(opened, out, cast("Any", dtype))
    return {**result, "place": str(out), "bytes": _size(out)}


def _free(form: str, out: Path) -> Path:
    """Return a place that can be written to.  Raises ConfigError if it is taken or cannot be."""
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another place")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} to write {out.name} to; make it first")
    suffix = SUFFIXES.get(form)
    if suffix is not None and out.suffix != suffix:
        raise ConfigError(f"--{form} must be a file whose name ends in {suffix}, got {out}")
    return out


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)
