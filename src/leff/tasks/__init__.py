"""What the clients learn and how it is measured: data, encoding, splits, metrics, generation."""
