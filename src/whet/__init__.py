"""Whet turns a trained model into fast, small native code on the machine at hand.

Nothing heavy is imported until it is used: ``import whet`` takes a few milliseconds.
"""

from __future__ import annotations

__version__ = "0.1.0"
