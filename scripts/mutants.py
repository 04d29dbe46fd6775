"""Change the code that merges, freezes, seals and writes, one place at a time, and see who notices.

    python scripts/mutants.py                              # all modules of COVERED; takes hours
    python scripts/mutants.py methods/aggregate.py --every 4

Each change ("mutant") is made in a copy of the source, and the module's tests run against it until
one fails.  A mutant that no test notices is printed: the tests have a hole there, or the change
means nothing.  The last line of a module is its score, the share that was noticed.  The tests run
one after another, each mutant in a fork of one process that has torch and the like loaded already,
so a mutant takes the time of its tests alone.  Run it from the project's folder, with LEFF
installed there.  It needs a system with `fork`.
"""

import argparse
import ast
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

# Modules, and the tests that hold them to what they should do, the quickest first.
COVERED = {
    "methods/sums.py": ("methods/test_aggregate.py", "methods/test_importance.py"),
    "methods/robust.py": ("methods/test_robust.py",),
    "methods/guard.py": ("methods/test_guard.py", "methods/test_robust.py"),
    "methods/aggregate.py": ("methods/test_aggregate.py",),
    "methods/adapters.py": ("methods/test_fedlora.py", "methods/test_slora.py"),
    "methods/checks.py": ("methods/test_aggregate.py", "test_round.py"),
    "server.py": ("test_server.py",),
    "client/model.py": ("client/test_model.py", "client/test_train.py"),
    "models/states.py": (
        "models/test_states.py",
        "models/test_short.py",
        "models/test_detect.py",
        "models/test_frozen_head.py",
    ),
    "models/load.py": ("models/test_load.py",),
    "models/class_names.py": ("models/test_class_names.py",),
    "wire/headers.py": ("wire/test_headers.py", "wire/test_checks.py"),
    "wire/checks.py": ("wire/test_checks.py", "test_server.py"),
    "wire/tensors.py": ("wire",),
    "wire/codec.py": ("wire/test_codec.py", "test_server.py"),
    "wire/json.py": ("wire/test_json.py",),
    "client/residuals.py": ("client/test_residuals.py",),
    "client/upload.py": ("client/test_upload.py",),
    "client/job_checks.py": ("client/test_job_checks.py",),
    "wire/parts.py": ("wire",),
    "wire/spool.py": ("wire", "engines/test_local.py"),
    "files.py": ("test_files.py", "runs/test_decisions.py"),
    "runs/checkpoints.py": ("runs/test_damage.py", "runs/test_folder.py"),
    "runs/folder.py": ("runs/test_folder.py",),
    "runs/decisions.py": ("runs/test_decisions.py",),
    "engines/local.py": ("engines/test_local.py", "test_round.py"),
    "privacy/fixed_point.py": ("privacy/test_fixed_point.py",),
    "privacy/masks.py": ("privacy/test_masks.py",),
    "privacy/secure_messages.py": ("privacy/test_secure_sums.py",),
    "privacy/secure_client.py": ("privacy/test_secure_sums.py",),
    "privacy/secure_server.py": ("privacy/test_secure_sums.py",),
}

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.Break: ast.Continue,
    ast.Continue: ast.Break,
}
NOT_RUN = ("annotation", "returns", "decorator_list", "type_params")


class Mutant(NamedTuple):
    """A source with one change."""

    line: int
    change: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Yield the source with one change each."""
    tree = ast.parse(source)
    for owner, key, node, line in list(sites(tree)):
        for new in replacements(node):
            owner[key] = new
            yield Mutant(line, f"{first_line(node)}  ->  {first_line(new)}", ast.unparse(tree))
        owner[key] = node


def sites(node: ast.AST, line: int = 1) -> Iterator[tuple[Any, Any, ast.AST, int]]:
    """Yield what runs below a node: the list or dict that holds it, its key there, it, its line."""
    for field, value in ast.iter_fields(node):
        if field in NOT_RUN:
            continue
        owner: Any = value if isinstance(value, list) else vars(node)
        for key in range(len(value)) if isinstance(value, list) else (field,):
            child = owner[key]
            if isinstance(child, ast.AST) and not is_said(child):
                at = getattr(child, "lineno", line)
                yield owner, key, child, at
                yield from sites(child, at)


def is_said(node: ast.AST) -> bool:
    """Whether a node only says something: a docstring, a type, a line of the log, a message."""
    if isinstance(node, ast.Expr):
        call = node.value
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        return isinstance(call, ast.Constant) or name.startswith("log.")
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom)


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a node is replaced by."""
    if type(node) in SWAPPED:
        yield SWAPPED[type(node)]()
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        value = node.value
        yield ast.Constant(not value if isinstance(value, bool) else value + 1)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    if isinstance(node, ast.Return) and node.value is not None:
        yield ast.Return(ast.Constant(None))
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        fields = dict(ast.iter_fields(node))
        yield type(node)(**fields | {"test": ast.UnaryOp(ast.Not(), node.test)})
    # An assignment to a name stays: without it, a later line fails anyway.
    places = node.targets if isinstance(node, ast.Assign) else []
    stored = any(isinstance(place, ast.Attribute | ast.Subscript) for place in places)
    if stored or isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete):
        yield ast.Pass()


def first_line(node: ast.AST) -> str:
    """Return a node as source, in one line; a bare operator by its name."""
    text = ast.unparse(node).partition("\n")[0] or type(node).__name__
    return text if len(text) <= 70 else f"{text[:67]}..."


class Bench:
    """A copy of the source, and tests that run against it, each time in a fork of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._loaded = folder, folder / "loaded"
        shutil.copytree(ROOT / "src/leff", folder / "leff")
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)  # for tests that start processes

    def put(self, module: str, source: str) -> None:
        """Put a source in the place of a module's."""
        path = self._folder / "leff" / module
        path.write_text(source, encoding="utf-8")
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()  # its time and size may be those of the new source

    def seconds(self, module: str) -> float:
        """Return how long a module's tests take when the libraries that they use are loaded."""
        for _ in range(2):
            start = time.monotonic()
            if not self.passes(COVERED[module], limit=3600):
                sys.exit(f"{module}: its tests fail without a change, so they show nothing")
            seconds = time.monotonic() - start
            for name in self._loaded.read_text(encoding="utf-8").split():
                with suppress(Exception):
                    importlib.import_module(name)
        return seconds

    def passes(self, tests: Iterable[str], limit: float) -> bool:
        """Return whether all tests pass within the limit, in seconds."""
        child = os.fork()
        if child == 0:
            os.setsid()
            os._exit(self._run(tests))
        end = time.monotonic() + limit
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status == 0
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False

    def _run(self, tests: Iterable[str]) -> int:
        import pytest

        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        options = ["-x", "-m", "not slow", "-p", "no:cacheprovider"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is loaded
        status = pytest.main([*options, *(str(ROOT / "tests" / test) for test in tests)])
        ours = (str(self._folder), str(ROOT / "tests"))
        files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
        names = [name for name, file in files.items() if not str(file).startswith(ours)]
        self._loaded.write_text("\n".join(names), encoding="utf-8")
        return int(status)


def examine(bench: Bench, module: str, every: int) -> tuple[int, int]:
    """Return how many mutants of a module were noticed, of how many; print the others."""
    source = (ROOT / "src/leff" / module).read_text(encoding="utf-8")
    bench.put(module, ast.unparse(ast.parse(source)))  # as the mutants are written
    limit = 10 + 4 * bench.seconds(module)
    tried = list(mutants(source))[::every]
    noticed = 0
    for mutant in tried:
        bench.put(module, mutant.source)
        if bench.passes(COVERED[module], limit):
            print(f"src/leff/{module}:{mutant.line}  {mutant.change}", flush=True)
        else:
            noticed += 1
    bench.put(module, source)
    print(f"{module}: {noticed} of {len(tried)} noticed", flush=True)
    return noticed, len(tried)


def main() -> None:
    """Examine the modules that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="by default all of COVERED")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th mutant")
    options = parser.parse_args()
    unknown = [module for module in options.modules if module not in COVERED]
    if unknown or options.every < 1:
        parser.error(f"unknown: {unknown}; modules are {', '.join(COVERED)}; N is 1 or more")
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        counts = [examine(bench, name, options.every) for name in options.modules or COVERED]
    noticed, tried = map(sum, zip(*counts, strict=True))
    print(f"score: {noticed} of {tried} noticed, {noticed / tried:.1%}")


if __name__ == "__main__":
    main()
