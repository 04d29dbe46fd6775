"""Groups of clients that have every label together, so that each block learns from all labels.

    groups = mixed_groups(counts, seen, rng)       # (N,), each client's group

A layer that a single client trains moves towards that client's labels.  If the clients of a group
train the same block, what their labels do to it cancels inside each layer, as in FedAvg.  Fewer
groups mean fewer layers in a round, so there are as many as the labels allow.  Source: our own;
compare FedGS (Li et al. 2022), which chooses so who takes part.
"""

import numpy as np

IMBALANCE = 0.25  # distance of a group's labels from all, in the mean: of probability, 0 to 1


def mixed_groups(counts: np.ndarray, seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each client's group, (N,), for its examples of each label, `counts` (N, K).

    `seen` (N,) is of how many examples each client's shares are; inf if they are exact.  There are
    about as many groups as can be without a mean imbalance above `IMBALANCE` (found by
    halving); if every client has all labels alike, each is alone.
    """
    best = np.arange(len(counts))
    if imbalance(counts, seen, best) <= IMBALANCE:
        return best
    best, low, high = np.zeros_like(best), 2, len(counts) - 1
    while low <= high:
        groups = (low + high) // 2
        found = _grouped(counts, groups, rng)
        if imbalance(counts, seen, found) <= IMBALANCE:
            best, low = found, groups + 1
        else:
            high = groups - 1
    return best


def _grouped(counts: np.ndarray, groups: int, rng: np.random.Generator) -> np.ndarray:
    """Put clients, the largest first, where their labels are missing most."""
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    missing = np.tile(counts.sum(axis=0) / groups, (groups, 1))  # (groups, K)
    found = np.zeros(len(counts), dtype=int)
    for client in order:
        gain = np.abs(missing).sum(axis=1) - np.abs(missing - counts[client]).sum(axis=1)
        best = rng.choice(np.flatnonzero(gain >= gain.max() - 1e-9))
        missing[best] -= counts[client]
        found[client] = best
    return found


def imbalance(counts: np.ndarray, seen: np.ndarray, groups: np.ndarray) -> float:
    """Return the total variation distance of the groups' label shares from those of all clients.

    It is the mean over groups, weighted by examples, less what chance would give where shares are
    of few examples: in squares, as independent errors add up.
    """
    shares = counts.sum(axis=0) / counts.sum()
    distance = 0.0
    for group in np.unique(groups):
        inside = groups == group
        own, sizes = counts[inside].sum(axis=0), counts[inside].sum(axis=1)
        variance = shares * (1 - shares) * np.sum(sizes**2 / seen[inside])
        chance = 0.5 * np.sqrt(2 / np.pi * variance).sum()
        found = 0.5 * np.abs(own - own.sum() * shares).sum()
        distance += np.sqrt(max(0.0, found**2 - chance**2))
    return float(distance / counts.sum())
