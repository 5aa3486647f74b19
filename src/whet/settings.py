"""The environment variables that Whet reads; nothing else in the package looks at them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class Settings(msgspec.Struct, frozen=True):
    """A snapshot of the environment.

    Attributes:
        dump_dir: ``WHET_DUMP``, where each compilation leaves its intermediate stages.
        cache_dir: ``WHET_CACHE_DIR``, where compiled kernels are kept between runs.
        jobs: ``WHET_JOBS``, how many compiler processes to use; 0 means one per CPU.
    """

    dump_dir: Path | None
    cache_dir: Path
    jobs: int


def read_settings() -> Settings:
    """Read the environment once and return what it says."""
    dump = os.environ.get("WHET_DUMP")
    cache = os.environ.get("WHET_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    jobs = os.environ.get("WHET_JOBS", "0")
    return Settings(
        dump_dir=Path(dump) if dump else None,
        cache_dir=Path(cache) if cache else Path(home) / "whet",
        jobs=int(jobs) if jobs.isdigit() else 0,
    )
