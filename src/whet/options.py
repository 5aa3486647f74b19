"""``Options``: everything that changes what the compiler produces."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from whet.errors import OptionError, nearest
from whet.limits import Limits, limits_from_dict

OPT_LEVELS = (0, 1, 2, 3)
MOST_THREADS = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile a model.

    Attributes:
        threads: threads that one call of the compiled model uses; 0 means all CPUs available.
        opt_level: 0 gives every operator its own kernel and its own memory; 1 adds graph
            clean-up and memory reuse; 2 adds fusion; 3 adds algorithms that change the
            order of floating-point operations, such as Winograd convolution.
        passes: switches by pass name, ``{"fold_batchnorm": False}``; unnamed passes follow
            ``opt_level``. A number stops a pass after so many rewrites, to find a wrong one.
        target: ``"host"`` or ``"<triple>:<cpu>"``, such as ``"aarch64-linux-gnu:neoverse-n1"``.
        cache_dir: where compiled kernels are kept; ``None`` takes the user's cache directory,
            ``""`` keeps nothing.
        host_ops: whether operators that are no arithmetic, such as those on texts, may run as
            functions of the runtime; else a model with any is refused.
        tuning: a file of ``whet tune`` with schedules that are faster on this machine; ``""`` takes
            those of the cost model alone.
        limits: how much a model and its compilation may take before they are refused; a mapping
            of names to numbers becomes a ``Limits``.
    """

    threads: int = 0
    opt_level: int = 3
    passes: MappingProxyType[str, bool | int] | dict[str, bool | int] = field(
        default_factory=lambda: MappingProxyType({})
    )
    target: str = "host"
    cache_dir: str | os.PathLike[str] | None = None
    limits: Limits = field(default_factory=Limits)
    host_ops: bool = True
    tuning: str | os.PathLike[str] = ""

    def __post_init__(self) -> None:
        """Reject values that no compilation could honour."""
        check_threads(self.threads)
        if self.opt_level not in OPT_LEVELS or isinstance(self.opt_level, bool):
            raise OptionError(f"opt_level is {self.opt_level!r}", hint="give 0, 1, 2 or 3")
        if not all(isinstance(v, int) and v >= 0 for v in self.passes.values()):
            raise OptionError(
                f"passes is {dict(self.passes)!r}",
                hint="give true, false or a number of rewrites by name",
            )
        if not isinstance(self.target, str) or not self.target:
            raise OptionError(f"target is {self.target!r}", hint='give "host" or "<triple>:<cpu>"')
        if not isinstance(self.host_ops, bool):
            raise OptionError(f"host_ops is {self.host_ops!r}", hint="give true or false")
        if isinstance(self.limits, Mapping):
            object.__setattr__(self, "limits", limits_from_dict(self.limits))
        if not isinstance(self.limits, Limits):
            raise OptionError(
                f"limits is a {type(self.limits).__name__}", hint="give whet.Limits(nodes=1000)"
            )
        if not isinstance(self.tuning, str | os.PathLike):
            raise OptionError(f"tuning is {self.tuning!r}", hint="give the path of a tuning file")
        object.__setattr__(self, "passes", MappingProxyType(dict(self.passes)))

    @property
    def thread_count(self) -> int:
        """Threads to use on this machine, with 0 resolved to the CPUs available."""
        return self.threads or len(os.sched_getaffinity(0))

    def as_dict(self) -> dict[str, Any]:
        """Return what decides the result, as plain values: all but where kernels are kept.

        Of the limits only the one on folded constants does; it is there if it was changed.
        """
        folded = self.limits.changed().get("folded_bytes")
        return {
            "threads": self.threads,
            "opt_level": self.opt_level,
            "passes": dict(self.passes),
            "target": self.target,
            **({"tuning": os.fspath(self.tuning)} if self.tuning else {}),
            **({} if folded is None else {"limits": {"folded_bytes": folded}}),
        }


def check_threads(threads: object) -> None:
    """Refuse what is no number of threads: a run would wait for them for ever.

    Raises:
        OptionError: it is no integer from 0 to 1024.
    """
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
        raise OptionError(f"threads is {threads!r}", hint="give an integer of 0 or more")
    if threads > MOST_THREADS:
        raise OptionError(f"threads is {threads}", hint=f"give at most {MOST_THREADS}")


def options_from_dict(values: dict[str, Any]) -> Options:
    """Build options from a mapping, such as a configuration file.

    Raises:
        OptionError: a key is unknown; the nearest valid name is in the hint.
    """
    valid = Options.__dataclass_fields__
    for key in values:
        if key not in valid:
            raise OptionError(f"unknown option {key!r}", hint=nearest(key, valid))
    return Options(**values)
