import itertools
import subprocess
import sys

import numpy as np
import pytest

from leff.methods.registry import _METHODS
from leff.report.colours import METHOD_COLOURS, colours_of

WHITE, DARK = "#FFFFFF", "#121212"
SIGHTS = {  # Machado, Oliveira, Fernandes (2009), severity 1: linear RGB as it is seen
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
LMS = [  # Ottosson (2020): linear RGB to the cones of OKLab, and those to OKLab
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(colour):
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    low, high = sorted(linear(each) @ [0.2126, 0.7152, 0.0722] for each in (a, b))
    return (high + 0.05) / (low + 0.05)


def distance(a, b, sight):
    def oklab(colour):
        return LAB @ np.cbrt(LMS @ np.clip(SIGHTS[sight] @ linear(colour), 0, 1))

    return float(np.linalg.norm(oklab(a) - oklab(b)))


def test_every_method_of_the_paper_has_a_colour():
    assert METHOD_COLOURS.keys() == {
        "leff",
        "fedavg",
        "fedlora",
        "slora",
        "flora",
        "flexlora",
        "fedbitfit",
    }
    assert METHOD_COLOURS.keys() <= _METHODS.keys()


@pytest.mark.parametrize("ground", [WHITE, DARK])
def test_colours_stand_out(ground):
    assert contrast(WHITE, "#000000") == pytest.approx(21)
    assert {n: c for n, c in METHOD_COLOURS.items() if contrast(c, ground) < 2.5} == {}


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_differ(sight):
    pairs = itertools.combinations(METHOD_COLOURS.items(), 2)
    alike = [(a, b) for (a, x), (b, y) in pairs if distance(x, y, sight) < 0.085]
    assert alike == []


def test_the_distance_finds_what_a_deuteranope_mixes_up():
    red, green = "#C00000", "#5A7A00"
    assert distance(red, green, "normal") > 0.2 > 0.085 > distance(red, green, "deuteranopia")


def test_names_in_any_case_and_names_of_others():
    found = colours_of(["LEFF", "mine", "fedavg", "yours"])
    assert found["LEFF"] == METHOD_COLOURS["leff"]
    assert found["fedavg"] == METHOD_COLOURS["fedavg"]
    assert len(set(found.values())) == 4
    many = colours_of([*METHOD_COLOURS, "mine"])
    assert many["mine"] in METHOD_COLOURS.values()
    assert colours_of([]) == {}


def test_the_table_is_light():
    code = (
        "import sys, leff.report.colours; print(*{'matplotlib', 'numpy', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
