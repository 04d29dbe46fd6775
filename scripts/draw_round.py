"""Draw a round as one picture, `docs/one-round.svg`.

    python scripts/draw_round.py

It is readable on light and dark pages, 360 pixels wide, and without colours: the block that a
device trains is high and full, a stand-in is low and hatched.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

OUT = Path(__file__).parents[1] / "docs" / "one-round.svg"
WIDTH, HEIGHT = 480, 690
LEFT, STEP, CELL = 112, 38, 33  # of a row of layers: its first x, from cell to cell, and a cell
IMPORTANCE = [9, 13, 24, 20, 34, 40, 22, 12]  # of each layer, as heights
BLOCKS = {"phone": {5}, "tablet": {4, 5}, "laptop": {2, 3, 4}}  # the layers that each trains

TITLE = "A round of LEFF"
DESCRIPTION = (
    "1. Each device reports how many layers it can train: the phone one, the tablet two, the "
    "laptop three. 2. The server samples a block of consecutive layers for each device; important "
    "layers are drawn more often. Here the phone gets layer 5, the tablet layers 4 and 5, the "
    "laptop layers 2 to 4. 3. Cheap stand-ins replace the other layers. 4. Each device trains its "
    "block on its own data, which stays there. 5. The server averages layer by layer, over the "
    "devices that trained the layer: two for layers 4 and 5, one for layers 2 and 3. Layers 0, 1, "
    "6 and 7 stay as they were. Then the next round begins."
)
# blue and orange of Okabe and Ito, which colour-blind people tell apart
STYLE = """
  .page { fill: #ffffff } .ink { fill: #1b1f24 } .soft { fill: #57606a }
  .line { stroke: #57606a; stroke-width: 2; fill: none } .tip { fill: #57606a }
  .layer { fill: #d0d7de } .block { fill: #0072b2 } .on { fill: #ffffff }
  .stand-in { fill: url(#hatch) } .hatch { stroke: #b87a00; stroke-width: 3 }
  text { font: 15px system-ui, sans-serif } .head { font-weight: 600; font-size: 17px }
  .middle { text-anchor: middle } .end { text-anchor: end }
  @media (prefers-color-scheme: dark) {
    .page { fill: #161b22 } .ink { fill: #f0f3f6 } .soft { fill: #b1bac4 }
    .line { stroke: #b1bac4 } .tip { fill: #b1bac4 }
    .layer { fill: #484f58 } .block { fill: #56b4e9 } .on { fill: #0b1f2e }
    .hatch { stroke: #e69f00 }
  }
"""


def text(x: float, y: float, words: object, kind: str = "ink") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" class="{kind}"/>'


def step(number: int, y: float, words: str) -> Iterable[str]:
    """A step's number and name."""
    yield f'<circle cx="30" cy="{y - 6}" r="13" class="block"/>'
    yield text(30, y, number, "on head middle")
    yield text(52, y, words, "ink head")


def down(y: float, words: str) -> Iterable[str]:
    """An arrow from one place to the other, and what goes this way."""
    yield f'<path d="M 30 {y - 15} v 20" class="line"/>'
    yield f'<path d="M 24 {y + 2} h 12 l -6 9 z" class="tip"/>'
    yield text(52, y + 2, words, "soft")


def layers(y: float, kinds: dict[int, str], marks: dict[int, object]) -> Iterator[str]:
    """A model's layers in a row; those of a kind of their own, and what stands in each."""
    for number in range(len(IMPORTANCE)):
        kind, x = kinds.get(number, "layer"), LEFT + STEP * number
        low = kind == "stand-in"
        yield box(x, y + 8 * low, CELL, 26 - 16 * low, kind)
        if number in marks:
            ink = "on middle" if kind == "block" else "ink middle"
            yield text(x + CELL / 2, y + 18, marks[number], ink)


def drawing() -> Iterator[str]:
    """The picture, from top to bottom."""
    numbers = range(len(IMPORTANCE))
    yield from step(1, 40, "Each device reports what it can train")
    for place, (device, block) in enumerate(BLOCKS.items()):
        x = 17 + 133 * place
        yield box(x, 55, 128, 28, "layer")
        can = f"{device}: {len(block)} layer{'s' * (len(block) > 1)}"
        yield text(x + 64, 74, can, "ink middle")
    yield from down(110, "up: a few numbers")

    yield from step(2, 152, "The server samples a block for each")
    yield text(52, 173, "important layers more often", "soft")
    for number, height in zip(numbers, IMPORTANCE, strict=True):
        yield box(LEFT + STEP * number, 228 - height, CELL, height, "tip")
    yield text(LEFT - 10, 226, "importance", "soft end")
    yield from layers(232, {}, {number: number for number in numbers})
    yield text(LEFT - 10, 250, "layer", "soft end")
    yield from down(286, "down: blocks, and what is new of the stand-ins")

    yield from step(3, 328, "Stand-ins replace the other layers")
    yield from step(4, 360, "Each device trains its block")
    yield text(52, 381, "on its own data, which stays there", "soft")
    for place, (device, block) in enumerate(BLOCKS.items()):
        y = 394 + 36 * place
        yield text(LEFT - 10, y + 18, device, "ink end")
        yield from layers(
            y,
            {n: "block" if n in block else "stand-in" for n in numbers},
            dict.fromkeys(block, "✓"),
        )
    yield from down(524, "up: the trained layers")

    yield from step(5, 566, "The server averages layer by layer")
    yield text(52, 587, "over the devices that trained the layer", "soft")
    trained = {n: sum(n in block for block in BLOCKS.values()) for n in numbers}
    yield text(LEFT - 10, 618, "devices", "soft end")
    yield from layers(600, {n: "block" for n in numbers if trained[n]}, trained)
    yield '<path d="M 424 613 h 32 v -579 h -30" class="line"/>'
    yield '<path d="M 429 28 v 12 l -9 -6 z" class="tip"/>'
    yield text(52, 660, "Then the next round begins.", "soft")


def picture() -> str:
    """The SVG's text."""
    stripes = '<path d="M -2 2 l 4 -4 M 0 8 l 8 -8 M 6 10 l 4 -4" class="hatch"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title description">',
            f'<title id="title">{TITLE}</title>',
            f'<desc id="description">{DESCRIPTION}</desc>',
            f"<style>{STYLE}</style>",
            '<pattern id="hatch" width="8" height="8" patternUnits="userSpaceOnUse">',
            f"{stripes}</pattern>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" class="page"/>',
            *drawing(),
            "</svg>\n",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the file, docs/one-round.svg")
    parser.parse_args().out.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
