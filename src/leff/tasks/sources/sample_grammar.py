"""The grammar of the built-in task: a meaning (attribute -> value) becomes varied English.

meaning = draw_meaning(rng)
linearise(meaning), realise(meaning, rng)
"""

from random import Random

from leff.tasks.sources.sample_words import ATTRIBUTES, NAMES, SURFACES

Meaning = dict[str, str]  # "name" and some of ATTRIBUTES

_OPENING = ("area", "grade", "length", "terrain")
_CLOSING = ("sight", "season", "rest", "access", "dogs")
_NOUNS = ("walk", "walk", "route")
_SUBJECTS = ("It", "It", "The walk", "The route")
_PREDICATES = {  # what the walk does
    "sight": ("passes {}", "leads past {}"),
    "season": ("is best in {}", "is at its best in {}"),
    "rest": ("ends at {}", "finishes at {}"),
    "access": ("can be reached by {}", "is simple to reach by {}"),
}
_CLAUSES = {  # what stands by itself
    "sight": ("you will see {}",),
    "season": ("the best time to go is {}",),
    "rest": ("there is {} at the end",),
    "access": ("you can get there by {}",),
    "dogs": ("{}",),
}


def draw_meaning(rng: Random) -> Meaning:
    """Draw a name, two to four attributes of the walk itself and one to three others."""
    chosen = {
        *rng.sample(_OPENING, rng.choices((2, 3, 4), (3, 4, 2))[0]),
        *rng.sample(_CLOSING, rng.choices((1, 2, 3), (3, 4, 2))[0]),
    }
    values = {a: rng.choice(tuple(SURFACES[a])) for a in ATTRIBUTES if a in chosen}
    return {"name": rng.choice(NAMES), **values}


def linearise(meaning: Meaning) -> str:
    """Write a meaning in the input format: ``name: Heron Path | area: Mossdale``."""
    return " | ".join(f"{attribute}: {value}" for attribute, value in meaning.items())


def realise(meaning: Meaning, rng: Random) -> str:
    """Write a meaning as one of its many texts."""
    words = {a: rng.choice(SURFACES[a][v]) for a, v in meaning.items() if a != "name"}
    closing = [a for a in _CLOSING if a in words]
    if len(closing) > 1 and rng.random() < 0.25:
        closing[0], closing[1] = closing[1], closing[0]
    relative = ""
    if closing[0] == "sight" and rng.random() < 0.4:
        closing.pop(0)
        relative = f" that {rng.choice(_PREDICATES['sight']).format(words['sight'])}"
    sentences = [_open(meaning["name"], words, relative, rng)]
    while closing:
        taken = min(len(closing), rng.choice((1, 2, 2)))
        sentences.append(_close(closing[:taken], words, rng))
        closing = closing[taken:]
    return " ".join(sentences)


def _open(name: str, words: dict[str, str], relative: str, rng: Random) -> str:
    """Write the first sentence."""
    adjectives = [words[a] for a in ("grade", "length", "terrain") if a in words]
    phrase = " ".join([*adjectives, rng.choice(_NOUNS)])
    phrase = f"{'an' if phrase[0] in 'aeiou' or phrase[:2] in ('8 ', '18') else 'a'} {phrase}"
    if "area" not in words:
        return f"{name} is {phrase}{relative}."
    area = words["area"]
    plans = [f"{name} is {phrase} in {area}{relative}."] * 3
    plans.append(f"{name} in {area} is {phrase}{relative}.")
    plans.append(f"In {area}, {name} is {phrase}{relative}.")
    return rng.choice(plans)


def _close(attributes: list[str], words: dict[str, str], rng: Random) -> str:
    """Write one sentence that states one or two attributes."""
    predicates = [a in _PREDICATES and rng.random() < 0.7 for a in attributes]
    parts = [
        rng.choice((_PREDICATES if short else _CLAUSES)[a]).format(words[a])
        for a, short in zip(attributes, predicates, strict=True)
    ]
    if predicates[0]:
        parts[0] = f"{rng.choice(_SUBJECTS)} {parts[0]}"
    if len(parts) == 2:
        if predicates[1] and not predicates[0]:
            parts[1] = f"it {parts[1]}"
        parts = [(" and " if all(predicates) else ", and ").join(parts)]
    return f"{parts[0][0].upper()}{parts[0][1:]}."
