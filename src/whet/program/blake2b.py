"""BLAKE2b without OpenSSL, which ``import hashlib`` loads: 3.5 MiB of resident memory."""

from __future__ import annotations

try:
    from _blake2 import blake2b
except ImportError:  # a Python built without its own
    from hashlib import blake2b

__all__ = ["blake2b"]
