"""The words of the built-in task: for every attribute, its values and the ways to say each.

    python -c "from leff.tasks.sources.sample_words import SURFACES; print(SURFACES['sight'])"

All walks are invented.  A value stands in the meaning representation, and its surfaces stand in
sentences.  A surface names only one value of its attribute, so `realises` can check a text against
its input.
"""

import re
from functools import cache

# fmt: off
_FIRST = (
    "Heron", "Otter", "Badger", "Kestrel", "Curlew", "Swallow", "Plover", "Hare", "Marten",
    "Osprey", "Raven", "Skylark", "Linnet", "Stoat", "Bramble", "Juniper", "Rowan", "Willow",
    "Alder", "Hazel", "Foxglove", "Harebell", "Clover", "Thistle", "Miller", "Drover", "Pilgrim",
    "Smuggler", "Shepherd", "Weaver",
)
_LAST = ("Path", "Trail", "Way", "Walk", "Track", "Round")
_AREAS = (
    "Mossdale", "Glen Arrow", "Port Ellery", "Larkmoor", "Upper Tarrow", "Saltby", "Vale of Wenn",
    "Cold Harrow", "Brackenshire", "Isle of Quill", "Thornbeck", "Merrow Bay",
)
# fmt: on
_LENGTHS = (3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18)
NAMES = tuple(f"{first} {last}" for first in _FIRST for last in _LAST)

# attribute -> value -> surfaces; the order is the order in a meaning representation
SURFACES: dict[str, dict[str, tuple[str, ...]]] = {
    "area": {area: ((f"the {area}" if " of " in area else area),) for area in _AREAS},
    "grade": {
        "easy": ("easy", "gentle"),
        "moderate": ("moderate", "fairly demanding"),
        "hard": ("hard", "strenuous"),
    },
    "length": {f"{km} km": (f"{km} km",) for km in _LENGTHS},
    "terrain": {
        "coast": ("coastal", "seaside"),
        "river": ("riverside",),
        "wood": ("woodland", "forest"),
        "hill": ("hill",),
        "moor": ("moorland",),
        "lake": ("lakeside",),
    },
    "sight": {
        "waterfall": ("a waterfall",),
        "castle": ("a ruined castle", "an old castle"),
        "lighthouse": ("a lighthouse",),
        "stone circle": ("a stone circle", "a ring of standing stones"),
        "mill": ("an old mill", "a water mill"),
        "abbey": ("a ruined abbey", "an old abbey"),
        "bird hide": ("a bird hide",),
        "viaduct": ("a railway viaduct",),
        "orchard": ("a cider orchard",),
        "cave": ("a deep cave", "a hidden cave"),
    },
    "season": {
        "spring": ("spring",),
        "summer": ("summer",),
        "autumn": ("autumn",),
        "winter": ("winter",),
    },
    "rest": {
        "pub": ("a village pub", "a country pub"),
        "tea room": ("a tea room",),
        "bakery": ("a bakery",),
        "farm shop": ("a farm shop",),
        "picnic site": ("a picnic site",),
    },
    "access": {"bus": ("bus",), "train": ("train",), "ferry": ("ferry",), "car": ("car",)},
    "dogs": {
        "yes": ("dogs are welcome", "you can bring your dog"),
        "on a lead": ("dogs must stay on a lead", "dogs should be on a lead"),
        "no": ("dogs are not allowed", "dogs have to stay at home"),
    },
}
ATTRIBUTES = tuple(SURFACES)


def realises(text: str, attribute: str) -> set[str]:
    """Return the values of `attribute` that `text` states ("name" counts as an attribute)."""
    pattern, values = _surface_pattern(attribute)
    return {values[surface.lower()] for surface in pattern.findall(text)}


@cache
def _surface_pattern(attribute: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """Return a pattern that finds any surface of `attribute`, and the value of each surface."""
    known = {n: (n,) for n in NAMES} if attribute == "name" else SURFACES[attribute]
    values = {surface.lower(): value for value, ways in known.items() for surface in ways}
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, values))})\b", re.IGNORECASE)
    return pattern, values
