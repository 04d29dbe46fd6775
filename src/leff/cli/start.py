"""`leff new` and `leff examples`: files to start from."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

import csv
import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from leff.cli.console import Json, print_json
from leff.errors import ConfigError, nearest

EXAMPLES = Path(__file__).parents[1] / "examples"
TEMPLATE = "new"  # the folder of `leff new`'s files
README = "README.md"  # of an example, and of all
ROWS, PUBLIC = 400, 300  # texts of its data file, and of its public one


def new(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="A new folder.")],
    as_json: Json = False,
) -> None:
    """Make a folder with a commented configuration, a fleet and data that run at once."""
    _check_free(folder)
    from leff.tasks.sources.sample import load, proxy_text

    folder.mkdir()
    for path in sorted((EXAMPLES / TEMPLATE).iterdir()):
        shutil.copy(path, folder / path.name)
    with (folder / "walks.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["facts", "description"])
        rows = load().train.select(range(ROWS))
        writer.writerows([row["input"], row["target"]] for row in rows)
    public = "\n".join(" ".join(text.split()) for text in islice(proxy_text(), PUBLIC))
    (folder / "public.txt").write_text(f"{public}\n", encoding="utf-8")
    if as_json:
        return print_json(sorted(str(path) for path in folder.iterdir()))
    typer.echo(f"{folder} has a configuration, a fleet and a table of texts. Try:\n")
    typer.echo(f"    cd {folder}\n    leff run config.toml --out runs/first")
    return None


def examples(
    names: Annotated[
        list[str] | None, typer.Argument(help="Examples to copy; without any, all are listed.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="The folder to copy to.")] = Path(),
    as_json: Json = False,
) -> None:
    """List the examples that come with LEFF, or copy some."""
    known = {path.name: path for path in sorted(EXAMPLES.iterdir()) if _is_example(path)}
    for name in names or []:
        if name not in known:
            raise ConfigError(f"there is no example {name}{nearest(name, known)}")
        _check_free(folder / name)
    for name in names or []:
        copy = shutil.copytree if known[name].is_dir() else shutil.copy
        copy(known[name], folder / name)
    if names:
        copied = [str(folder / name) for name in names]
        return print_json(copied) if as_json else typer.echo("\n".join(copied))
    about = {name: _about(path) for name, path in known.items()}
    if as_json:
        return print_json(about)
    for name, text in about.items():
        typer.echo(f"{name:<15}  {text}")
    return None


def _is_example(path: Path) -> bool:
    return path.name not in (TEMPLATE, README) and not path.name.startswith(("_", "."))


def _about(path: Path) -> str:
    """Return what an example's first line says of it; of a folder, its README's."""
    text = (path / README if path.is_dir() else path).read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "".join(json.loads(text)["cells"][0]["source"])
    return text.partition("\n")[0].strip('#" ')


def _check_free(path: Path) -> None:
    """Raise ConfigError for a place that is taken or cannot be."""
    if path.exists():
        raise ConfigError(f"{path} exists already; choose another place")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}; make it first")
