"""Reasons that devices give, as the server keeps them.

    own_words("training failed with ValueError")     # as it is
    own_words("the user wrote 'Anna is ill'")        # "it gives a reason that is not kept"

A text from a device may hold private data, or be made to deceive.  So only texts that our own code
writes on a device are kept.  The device's own log has the rest.
"""

import re

_NUMBER, _NAME = r"[\d,.]{1,40}", r"[A-Za-z_][\w.]{0,60}"
_VERSION = r"[0-9][\w.]{0,30}"
_OWN = [
    rf"the loss was (nan|inf|-inf|{_NUMBER}) at step {_NUMBER}",
    r"a trained weight is not finite",
    r"the client has no (validation )?examples",
    rf"out of memory: {_NUMBER} bytes held and asked for",
    r"out of memory while it measured",
    r"the deadline passed while it measured",
    rf"(training|it) failed with {_NAME}",
    rf"the deadline passed after {_NUMBER} of {_NUMBER} steps",
    r"its data has changed since it reported",
    r"its data does not fit the task; its own log says why",
    r"this device has not joined this federation",
    rf"the server has leff {_VERSION}, this device {_VERSION}",
    rf"leff {_VERSION} cannot read this ask",
    r"its answer cannot be read",
    r"it asks for something that no run has",
    r"it answers something else",
    rf"the job (is of|asks for an update of|is given) {_NUMBER} (bytes|seconds|epochs), "
    rf"this device allows {_NUMBER}; see its limits",
    r"a transfer failed: the server(, or the network, was away| refused it)",
    r"its disk is full",
    r"its privacy budget does not allow the job; see limits\.epsilon in its device\.toml",
    r"the job asks for what this device tells in sums only; see its limits",
    r"it takes no part in the secure sum; its own log says why",
    r"this SuperNode has no leff-home in its node-config",
    r"this SuperNode's device cannot work; its own log says why",
    r"its process ended while it did this job",
]
_KNOWN = re.compile("|".join(f"(?:{each})" for each in _OWN))


def own_words(text: str) -> str:
    """Return a reason if our own code may have written it; "" for none."""
    if not text:
        return ""
    return text if _KNOWN.fullmatch(text) else "it gives a reason that is not kept"
