"""Methods, as siblings: what is sent, trained and merged.  `leff.runs.prepare` builds them."""
