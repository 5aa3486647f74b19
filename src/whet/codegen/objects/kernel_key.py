"""What the object code of a kernel depends on, without writing its text first.

Writing texts is most of what a compilation from a warm cache would do after lowering. A kernel is
a frozen record that says all that its text says, so the record, what else the writers are given
and the writers themselves tell which text it is.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import llvmlite

from whet.index import Dim, Poly
from whet.kernel.spec import Kernel
from whet.target import Target

_PACKAGE = Path(__file__).parents[2]
FOLDERS = ("codegen", "index", "kernel", "program")
"""Of the package, where all is that writes kernels, beside the modules of the package itself."""

_NUMBERS = (bool, int, float, str, type(None))


def kernel_key(name: str, kernel: Kernel, dims: tuple[str, ...], target: Target) -> str:
    """Return a key that kernels share only if ``kernel_text`` writes the same for them.

    Raises:
        TypeError: the kernel holds something that is no number, text, record or tuple of such.
    """
    parts = (WRITERS, _text((name, kernel, dims, target)))
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=20).hexdigest()


def _text(value: Any) -> str:
    """Return a value as text that says all of it; equal texts are of equal values."""
    if isinstance(value, _NUMBERS):
        return repr(value)
    if isinstance(value, tuple):
        return f"({','.join([_text(item) for item in value])})"
    if isinstance(value, Poly):
        return f"Poly{_text(value.terms)}"
    if isinstance(value, Dim):
        return f"Dim({value.name!r},{value.least})"  # what it counted on is a result
    fields = getattr(type(value), "__match_args__", None)
    if fields is None:
        raise TypeError(f"no key for {type(value).__name__}")
    inner = ",".join([_text(getattr(value, field)) for field in fields])
    return f"{type(value).__name__}({inner})"


def _writers() -> str:
    """Return a digest of the sources that write kernels, and of what compiles the texts."""
    inside = (path for folder in FOLDERS for path in (_PACKAGE / folder).rglob("*.py"))
    digest = hashlib.blake2b(llvmlite.__version__.encode(), digest_size=20)
    sources = sorted([*_PACKAGE.glob("*.py"), *inside])
    if not sources:  # of an installation without them nothing tells writers apart
        digest.update(os.urandom(20))
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


WRITERS = _writers()
"""The writers as they were when they were imported; what is changed later is not in use."""
