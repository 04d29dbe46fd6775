"""A run from its options to its finished folder.  Only this package knows options."""
