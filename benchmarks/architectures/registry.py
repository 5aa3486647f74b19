"""All architectures by name."""

from __future__ import annotations

from benchmarks.architectures.architecture import Architecture
from benchmarks.architectures.audio import AUDIO
from benchmarks.architectures.multimodal import MULTIMODAL
from benchmarks.architectures.text import TEXT
from benchmarks.architectures.vision import VISION

ARCHITECTURES: dict[str, Architecture] = {**TEXT, **VISION, **AUDIO, **MULTIMODAL}
