"""The kernel kinds: how each becomes a function."""
