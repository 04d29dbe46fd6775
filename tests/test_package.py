"""The wheel alone: built, installed outside the repository, and used there."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KEPT = ("src/", "pyproject.toml", "docs/package.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree.  A copy is built, so that the tree stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and name.startswith(KEPT):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel, beside the libraries that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LEFF_DATA")}
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, env=clean)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "libraries.pth").write_text(f"{libraries}\n")

    def leff(*arguments, where):
        command = [str(folder / "venv" / "bin" / "leff"), *map(str, arguments)]
        done = subprocess.run(command, cwd=where, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return leff


@pytest.mark.slow
def test_the_wheel_has_what_the_documents_use(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path):
            assert path.relative_to(source).as_posix() in names


@pytest.mark.slow
def test_the_main_job_runs_from_the_wheel(installed, tmp_path):
    installed("new", "walks", where=tmp_path)
    small = ["training.rounds=1", "evaluation.final_examples=2", "proxy.examples=16"]
    flags = [part for each in small for part in ("--set", each)]
    printed = installed("run", "config.toml", "--out", "a", *flags, where=tmp_path / "walks")
    assert "round 1" in printed and str(ROOT) not in printed
    assert "SST-2" in installed("table", 8, "--no-run", where=tmp_path)
    installed("examples", "e2e.toml", "network", where=tmp_path)
    assert (tmp_path / "network" / "compose.yaml").exists()


@pytest.mark.slow
def test_the_metadata_is_complete(wheel):
    inside = zipfile.ZipFile(wheel)
    (name,) = (each for each in inside.namelist() if each.endswith(".dist-info/METADATA"))
    text = inside.read(name).decode()
    for field in ("Author", "Classifier", "Keywords", "License-Expression", "Requires-Python"):
        assert f"\n{field}: " in text, field
    links = [part for part in text.split("](")[1:] if not part.startswith(("http", "#"))]
    assert links == []  # the package index has no files beside the page
    assert "\nProvides-Extra: gguf\n" in text
