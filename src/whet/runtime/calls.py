"""What a script may call: functions on values that native code cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from whet.program.script import Call

Function = Callable[[Call, list[Any]], list[Any]]

CALLS: Mapping[str, Function] = MappingProxyType({})
