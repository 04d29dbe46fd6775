"""The distributions: built, and the wheel installed outside the repository and used there."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools import build_meta; build_meta.build_sdist({!r})"


@pytest.fixture(scope="module")
def files():
    """The files of this tree that are no product of others, by their names in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def source(files, tmp_path_factory):
    """The source distribution.  It is built from a copy, so that the tree stays as it is."""
    folder = tmp_path_factory.mktemp("source")
    tree = folder / "tree"
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-c", BUILD.format(str(folder))]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel, beside the libraries that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)  # the pip of this environment installs there
    install = [sys.executable, "-m", "pip", "--python", str(folder / "venv"), "install"]
    install += ["--quiet", "--no-deps", "--no-index"]
    clean = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LEFF_DATA", "JAVA_HOME")
    }
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, env=clean)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "libraries.pth").write_text(f"{libraries}\n")

    def leff(*arguments, where):
        command = [str(folder / "venv" / "bin" / "leff"), *map(str, arguments)]
        own = {**clean, "PATH": ""}  # without Java, which takes seconds
        done = subprocess.run(command, cwd=where, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return leff


@pytest.mark.slow
def test_the_source_distribution_has_every_file(source, files):
    with tarfile.open(source) as inside:
        names = {name.partition("/")[2] for name in inside.getnames()}
    assert set(files) <= names
    assert {name for name in names if "__pycache__" in name} == set()


@pytest.mark.slow
def test_the_wheel_has_what_the_documents_use(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path):
            assert path.relative_to(source).as_posix() in names


@pytest.mark.slow
def test_the_main_job_runs_from_the_wheel(installed, tmp_path):
    small = ["training.rounds=1", "data.train_examples=160", "proxy.examples=16"]
    small += [f"evaluation.{key}" for key in ("examples=2", "final_examples=2", "gap_clients=0")]
    flags = [part for each in small for part in ("--set", each)]
    printed = installed("run", "--out", "a", *flags, where=tmp_path)
    assert "round 1" in printed and str(ROOT) not in printed
    assert "SST-2" in installed("table", 8, "--no-run", where=tmp_path)
    installed("new", "walks", where=tmp_path)  # that this one runs is in test_start
    assert (tmp_path / "walks" / "fleet.toml").exists()
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
