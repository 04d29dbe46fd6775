"""The methods, side by side.  Each says what is sent, trained and merged.  See `registry`."""
