"""Whet turns a trained model into fast, small native code on the machine at hand.

Nothing is imported until it is used: ``import whet`` takes a few milliseconds, and a program that
only loads compiled files never imports the compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from whet.collector import collection_paused

if TYPE_CHECKING:
    from whet import errors
    from whet.errors import (
        ArtifactError,
        CompileError,
        InputError,
        ModelError,
        OptionError,
        ResourceError,
        ShapeError,
        TargetError,
        UnsupportedError,
        WhetError,
    )
    from whet.frontend.preprocess.block import aipp_block
    from whet.frontend.preprocess.records import Colours, DynamicPreprocess, Preprocess
    from whet.limits import Limits
    from whet.options import Options
    from whet.program.records import FusedGroup, Stats, TensorSpec
    from whet.quantize.api import quantize
    from whet.runtime.load import load
    from whet.start import compile  # noqa: A004 - the verb of the package

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "Colours",
    "CompileError",
    "DynamicPreprocess",
    "FusedGroup",
    "InputError",
    "Limits",
    "ModelError",
    "OptionError",
    "Options",
    "Preprocess",
    "ResourceError",
    "ShapeError",
    "Stats",
    "TargetError",
    "TensorSpec",
    "UnsupportedError",
    "WhetError",
    "aipp_block",
    "compile",
    "errors",
    "load",
    "quantize",
]

_HOME = {
    "Colours": "whet.frontend.preprocess.records",
    "DynamicPreprocess": "whet.frontend.preprocess.records",
    "Preprocess": "whet.frontend.preprocess.records",
    "Limits": "whet.limits",
    "Options": "whet.options",
    "FusedGroup": "whet.program.records",
    "Stats": "whet.program.records",
    "TensorSpec": "whet.program.records",
    "aipp_block": "whet.frontend.preprocess.block",
    "compile": "whet.start",
    "load": "whet.runtime.load",
    "quantize": "whet.quantize.api",
}


# Hidden from type checkers, which would take any name for a public one.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name where it lives, the first time it is asked for."""
        if name not in __all__:
            raise AttributeError(f"module 'whet' has no attribute {name!r}")
        if name == "errors":
            return import_module("whet.errors")
        with collection_paused():  # the compiler is 1,200 modules
            home = import_module(_HOME.get(name, "whet.errors"))
        value: object = getattr(home, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, those not imported yet too."""
    return sorted({*globals(), *__all__})
