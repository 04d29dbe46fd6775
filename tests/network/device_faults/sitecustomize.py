"""Faults in a device's own process, for tests.  Python imports a module of this name as it starts.

The folder $LEFF_TEST_FAULTS is read before each training:

    allowed      the rounds that may be trained, from 0 to this number - 1; training waits for it
    fault        what goes wrong, by the names in `FAULTS`; used once, unless it ends with " always"
    trained      written here: a line "ROUND CLIENT" for each training that ended well

$LEFF_TEST_CLOCK sets the clock of this process forward by as many seconds, and $LEFF_TEST_VERSION
is the version of leff that it believes to be.
"""

import os
import sys
import time
from importlib import machinery, metadata
from pathlib import Path

FOLDER = os.environ.get("LEFF_TEST_FAULTS")


def _raise(*_):
    raise ValueError("the user wrote that Anna is ill")


def _memory(*_):
    raise MemoryError


def _exit(*_):
    os._exit(137)  # as the kernel ends a process when memory is out


def _changed(change):
    """Return a fault that changes the tensors of an update."""

    def fault(train, *arguments):
        from dataclasses import replace

        from leff.wire.tensors import pack, unpack

        update = train(*arguments)
        tensors = {name: tensor.clone() for name, tensor in unpack(update.payload).items()}
        change(tensors)
        return replace(update, payload=pack(tensors))

    return fault


def _nan(tensors):
    next(iter(tensors.values())).view(-1)[0] = float("nan")


def _shape(tensors):
    name = next(iter(tensors))
    tensors[name] = tensors[name].repeat_interleave(2, 0)


def _replaced(**changes):
    def fault(train, job, *arguments):
        from dataclasses import replace

        update = train(job, *arguments)
        return replace(update, **{name: change(job) for name, change in changes.items()})

    return fault


FAULTS = {
    "raise": _raise,
    "memory": _memory,
    "exit": _exit,
    "nan": _changed(_nan),
    "shape": _changed(_shape),
    "round": _replaced(round=lambda job: job.round + 7),
    "client": _replaced(client=lambda job: 0),
}


def _faulty(train):
    folder = Path(FOLDER)

    def faulty(job, *arguments):
        while job.round >= int((folder / "allowed").read_text() or 0):
            time.sleep(0.02)
        fault = folder / "fault"
        words = fault.read_text().split() if fault.exists() else []
        if words:
            if "always" not in words:
                fault.unlink()
            update = FAULTS[words[0]](train, job, *arguments)
        else:
            update = train(job, *arguments)
        with (folder / "trained").open("a") as file:
            file.write(f"{job.round} {job.client}\n")
        return update

    return faulty


class _Finder:
    """Changes `leff.client.train` after it was imported, which is long after this module was."""

    def find_spec(self, name, path=None, target=None):
        if name != "leff.client.train":
            return None
        spec = machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.train = _faulty(module.train)

        spec.loader.exec_module = exec_module
        return spec


def _install():
    if FOLDER:
        sys.meta_path.insert(0, _Finder())
    if ahead := float(os.environ.get("LEFF_TEST_CLOCK", 0)):
        now = time.time
        time.time = lambda: now() + ahead
    if claimed := os.environ.get("LEFF_TEST_VERSION"):
        version = metadata.version
        metadata.version = lambda name: claimed if name == "leff" else version(name)


_install()
