"""Quantisation: ``whet.quantize(model, calibration, ...)``.

The package is called like the function, so the module itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A module that forwards a call to ``whet.quantize.api.quantize``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from whet.quantize.api import quantize

        return quantize(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
