"""Benchmarks of Whet against its peers; ``python -m benchmarks.run --help`` says how."""
