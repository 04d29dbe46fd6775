"""The colour of each method, the same in every picture and page.

colours_of(["LEFF", "FedAvg"])          # {"LEFF": "#0072B2", "FedAvg": "#CB5500"}

These are the hues of Okabe and Ito (2008), which people who see fewer colours tell apart, a little
changed to stand out from white and from near-black.  They are for lines and marks; text beside
them keeps the colour of text.
"""

from collections.abc import Iterable
from itertools import cycle

METHOD_COLOURS = {  # by the name of `--method`
    "leff": "#0072B2",  # blue
    "fedavg": "#CB5500",  # vermilion
    "fedlora": "#00A776",  # green
    "slora": "#EE74B6",  # pink
    "flora": "#E09200",  # orange
    "flexlora": "#4CABE8",  # sky blue
    "fedbitfit": "#6B6B6B",  # grey
}


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name, in upper or lower case.

    What is no method of the table, such as a user's own, gets a colour that none of `names` has, as
    long as there is one.
    """
    names = list(names)
    own = {name: METHOD_COLOURS[name.lower()] for name in names if name.lower() in METHOD_COLOURS}
    free = [colour for colour in METHOD_COLOURS.values() if colour not in own.values()]
    others = cycle(free or METHOD_COLOURS.values())
    return {name: own.get(name) or next(others) for name in names}
