"""Sums of clients' values, by group, of which the server learns nothing but the sums.

    client = SecureClient(3, round_index=7)        # anew for every round, as its keys are
    server = SecureServer(7, groups, threshold=5)  # groups: {"layer 2": Group((0, 3, 5), 8)}
    roster = server.roster(keys)                   # keys: what the clients' advertise() gave
    boxes = server.boxes(shares)                   # share(roster)
    survivors = server.survivors(masked)           # mask(boxes[3], {"layer 2": encoded})
    sums = server.sums(unmasked)                   # unmask(survivors)

The protocol is that of Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving
Machine Learning", against a server that follows it and looks at all that it gets.  What is ours:
every group has its own cohort and its own self masks, and is opened by itself, or not at all.

A client i sends x_i + PRG(b_i) + Σ_{j>i} PRG(s_ij) - Σ_{j<i} PRG(s_ij) modulo 2^32 for each of its
groups.  b_i is its own secret, and s_ij the one that it agreed on with j.  In the sum over a cohort
the pairs cancel.  Of a client that sent, the others give the server shares of b_i.  Of one that
dropped, they give shares of the key from which its s_ij come.  They never give both, so the server
cannot take all masks off one client's values.  Of a group that is not opened nobody gives a share
of b_i, so the key of one that dropped uncovers nothing there.

Every method raises SecureSumError for what is wrong, and changes nothing then.
"""

from leff.privacy.secure_client import SecureClient
from leff.privacy.secure_messages import (
    Boxes,
    Group,
    GroupSum,
    Keys,
    Masked,
    Roster,
    Shares,
    Survivors,
    Unmasked,
)
from leff.privacy.secure_server import SecureServer

__all__ = [
    "Boxes",
    "Group",
    "GroupSum",
    "Keys",
    "Masked",
    "Roster",
    "SecureClient",
    "SecureServer",
    "Shares",
    "Survivors",
    "Unmasked",
]
