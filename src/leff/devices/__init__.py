"""Clients as devices: what they have, what fits them, how long their rounds take."""
