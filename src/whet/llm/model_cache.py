"""Checkpoints that were compiled before: kept as ``.whet`` files, and mapped the next time.

Packing weights takes longer than everything else in loading a model. A compiled form is kept in the
cache folder under a key of all that decides it: size, time and the beginning and end of every
file of the checkpoint, how it is loaded, options, this machine, and Whet itself. The loader checks
every byte of an entry; one that is damaged is made again. Processes that want the same entry
wait for the first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from whet import __version__
from whet.codegen.objects.targets import resolve_target
from whet.errors import ArtifactError, TargetError
from whet.options import Options
from whet.runtime.load import load
from whet.runtime.model import CompiledModel
from whet.settings import read_settings

VARIANTS = 4
"""Entries that are kept of one checkpoint; the one used longest ago goes first."""

_SAMPLE = 1 << 20
"""Bytes at the beginning of a file that go into the key, and a sixteenth of that at its end."""

_WAIT_S = 1800.0
_LOG = logging.getLogger("whet.llm")

Build = Callable[[], CompiledModel]


@dataclass(frozen=True, slots=True)
class ModelCache:
    """The compiled forms of one checkpoint.

    Attributes:
        folder: where they are kept; ``None`` keeps nothing.
        files: what the checkpoint is made of.
        facts: how it is loaded.
        options: how it is compiled.
    """

    folder: Path | None
    files: tuple[Path, ...]
    facts: Mapping[str, Any]
    options: Options

    def get(self, part: Mapping[str, Any], build: Build) -> CompiledModel:
        """Return a compiled program of the checkpoint, built only if it is not kept.

        Args:
            part: which program it is.
            build: compiles it.
        """
        if self.folder is None:
            return build()
        entry = self._entry(part)
        found = _opened(entry, self.options)
        if found is not None:
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(entry.with_suffix(".lock"), timeout=_WAIT_S):
                return _opened(entry, self.options) or self._made(entry, build)
        except (OSError, Timeout) as error:
            _LOG.warning("the compiled model is not kept: %s", error)
            return build()

    def _made(self, entry: Path, build: Build) -> CompiledModel:
        """Compile, keep, and return what was kept, so that its weights are the file's pages."""
        made = build()
        if shutil.disk_usage(entry.parent).free < 2 * made.stats.weight_bytes:
            _LOG.warning("the compiled model is not kept: %s is almost full", entry.parent)
            return made
        try:
            made.save(entry)
        except ArtifactError as error:
            _LOG.warning("the compiled model is not kept: %s", error)
            return made
        del made  # or the weights would be in memory twice
        _leave_memory(entry)
        self._forget(entry)
        return _opened(entry, self.options) or build()

    def _entry(self, part: Mapping[str, Any]) -> Path:
        assert self.folder is not None, "entries lie in a folder"
        whole = {
            "files": [_fingerprint(file) for file in self.files],
            "facts": dict(self.facts),
            "part": dict(part),
            "options": self.options.as_dict() | {"threads": self.options.thread_count},
            "target": repr(resolve_target(self.options.target)),
            "whet": [__version__, _own_code(), version("llvmlite")],
        }
        key = hashlib.sha256(msgspec.json.encode(whole, order="deterministic")).hexdigest()
        return self.folder / f"{self._place}-{key[:32]}.whet"

    @property
    def _place(self) -> str:
        """What the names of the checkpoint's entries begin with."""
        return hashlib.sha256(os.fsencode(self.files[0].resolve())).hexdigest()[:16]

    def _forget(self, kept: Path) -> None:
        """Remove the checkpoint's oldest entries; models that map them keep their pages."""
        others = [p for p in kept.parent.glob(f"{self._place}-*.whet") if p != kept]
        ages = sorted(others, key=_used, reverse=True)
        for old in ages[VARIANTS - 1 :]:
            for path in (old, old.with_suffix(".lock")):
                with suppress(OSError):
                    path.unlink()


def model_cache(
    files: Iterable[Path], facts: Mapping[str, Any], options: Options | None, least: int | None
) -> ModelCache:
    """Return where compiled forms of a checkpoint are kept.

    Args:
        files: what it is made of.
        facts: how it is loaded.
        options: how it is compiled.
        least: bytes from which on it is kept; ``None`` for never.
    """
    chosen, listed = options or Options(), tuple(sorted(files))
    folder = read_settings().cache_dir if chosen.cache_dir is None else Path(chosen.cache_dir)
    size = sum(file.stat().st_size for file in listed)
    kept = least is not None and size >= least and str(chosen.cache_dir) != "" and listed
    return ModelCache(folder / "llm" if kept else None, listed, facts, chosen)


def _opened(entry: Path, options: Options) -> CompiledModel | None:
    """Return what an entry holds; one that is damaged is removed."""
    if not entry.exists():
        return None
    try:
        found = load(entry, options.thread_count)
    except (ArtifactError, TargetError) as error:
        _LOG.warning("a kept model is made again: %s", error)
        with suppress(OSError):
            entry.unlink()
        return None
    with suppress(OSError):
        os.utime(entry.with_suffix(".lock"))  # when it was last used
    return found


def _leave_memory(entry: Path) -> None:
    """Drop what was just written from memory, so that it is read again in large pages.

    Pages that writing leaves behind are mostly small: prompts of 512 tokens took 4 % longer.
    """
    with suppress(OSError), entry.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _used(entry: Path) -> float:
    try:
        return entry.with_suffix(".lock").stat().st_mtime
    except OSError:
        return 0.0


def _fingerprint(file: Path) -> list[Any]:
    state = file.stat()
    with file.open("rb") as opened:
        digest = hashlib.sha256(opened.read(_SAMPLE))
        opened.seek(max(state.st_size - _SAMPLE // 16, 0))
        digest.update(opened.read(_SAMPLE // 16))
    return [file.name, state.st_size, state.st_mtime_ns, digest.hexdigest()]


@cache
def _own_code() -> str:
    """Return what changes with any file of this package."""
    folder = Path(__file__).parents[1]
    files = [f for f in sorted(folder.rglob("*.py")) if "tests" not in f.parts]
    states = [(str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(states).encode()).hexdigest()
