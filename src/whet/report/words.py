"""Words that several pages and tables share."""

from __future__ import annotations

NOISY = "The machine was noisy: trust the ratios, not the times."
