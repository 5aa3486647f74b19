"""Tiny seeded models of many ``transformers`` architectures, exported and compared with PyTorch."""
