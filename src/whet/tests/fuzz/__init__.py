"""Fuzzing: random models against oracles, and damaged files against the loaders."""
