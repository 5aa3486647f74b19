"""Forms of what commands print with ``--json``, built from the records that they are made of.

``python scripts/schemas.py`` writes them to ``docs/schemas`` as JSON schemas. Numbers that are not
finite are null in JSON, so that every floating-point number may be.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

import msgspec
from msgspec import UNSET, UnsetType

from whet.check import Report
from whet.cli.more_forms import demo_documents, language_documents, view_documents
from whet.cli.subject import Subject
from whet.measure.acceptance import Criterion
from whet.measure.accuracy.bisect import Culprit
from whet.measure.accuracy.failure import Failure
from whet.measure.accuracy.layers import LayersReport
from whet.measure.accuracy.verify import OutputReport
from whet.measure.fates import Fate
from whet.measure.interleave import Plan
from whet.measure.keep_faster import Trial
from whet.measure.machine import Machine
from whet.measure.memory import MemoryUse
from whet.measure.profile.advice import Finding
from whet.measure.profile.counters import Counters
from whet.measure.profile.differences import LaunchDifference
from whet.measure.profile.launches import RunTimes
from whet.measure.profile.memory_timeline import MemoryTimeline
from whet.measure.profile.roofline import Roofline
from whet.measure.statistics import Comparison, Noise, Summary
from whet.measure.streams import WarmUp
from whet.measure.versus import Versus
from whet.optimize.optimize import OptimizeReport
from whet.quantize.config import QuantizeConfig

Fields = dict[str, Any]
Texts = tuple[str, ...]
Shape = tuple[int | str, ...]


class Forms:
    """Types of documents.

    Args:
        strict: whether fields that a form does not have are errors; schemas let them be, as within
            a version fields may be added.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._known: dict[type, type] = {}

    def document(self, schema: str, fields: Fields, *records: type) -> type:
        """Return the type of a whole document: ``schema``, its own fields and those of records."""
        own = {"schema": Literal[schema], **fields}
        for record in records:
            own |= _fields_of(record)
        return self._struct(schema.replace("whet.", "").replace(".", "_"), own)

    def part(self, name: str, fields: Fields, *records: type) -> type:
        """Return the type of a part of a document."""
        own = dict(fields)
        for record in records:
            own |= _fields_of(record)
        return self._struct(name, own)

    def _struct(self, name: str, fields: Fields) -> type:
        needed, optional = [], []
        for key, annotation in fields.items():
            what = self._type(annotation)
            if UnsetType in typing.get_args(annotation):
                optional.append((key, what, msgspec.field(default=UNSET)))
            else:
                needed.append((key, what))
        made = msgspec.defstruct(
            name, [*needed, *optional], kw_only=True, forbid_unknown_fields=self._strict
        )
        self._known[made] = made
        return made

    def _type(self, annotation: Any) -> Any:
        """Return a type as it is in JSON."""
        if annotation is float:
            return float | None
        if isinstance(annotation, type) and _is_record(annotation):
            if annotation not in self._known:
                made = self._struct(annotation.__name__, _fields_of(annotation))
                self._known[annotation] = made
            return self._known[annotation]
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (Union, types.UnionType):
            return Union[tuple(a if a is UnsetType else self._type(a) for a in arguments)]  # noqa: UP007 - made at run time
        if origin in (dict, Mapping):
            return dict[str, self._type(arguments[1])]  # type: ignore[misc]
        if origin in (tuple, list, Sequence):
            return self._sequence(origin, arguments)
        return annotation

    def _sequence(self, origin: Any, arguments: tuple[Any, ...]) -> Any:
        if origin is tuple and arguments[-1] is not Ellipsis:
            return tuple[tuple(self._type(a) for a in arguments)]  # type: ignore[misc]
        return list[self._type(arguments[0])]  # type: ignore[misc]


def _is_record(cls: type) -> bool:
    return (
        issubclass(cls, msgspec.Struct)
        or dataclasses.is_dataclass(cls)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    )


def _fields_of(record: type) -> Fields:
    hints = typing.get_type_hints(record)
    names = getattr(record, "__struct_fields__", None) or getattr(record, "_fields", None)
    if names is None:
        names = [field.name for field in dataclasses.fields(record)]
    return {name: hints[name] for name in names}


def all_forms(*, strict: bool = False) -> dict[str, type]:
    """Return the form of every document by the name in its ``schema``."""
    forms = Forms(strict=strict)
    spec: Any = forms.part("Tensor", {"name": str, "dtype": str, "shape": Shape})
    group: Any = forms.part("Group", {"kernel": str, "ops": Texts, "nodes": Texts})
    placed: Any = forms.part("Placement", {"place": str, "ops": Texts, "nodes": Texts})
    stats: Fields = {
        "target": str, "threads": int, "launches": int, "arena_bytes": int, "weight_bytes": int,
        "code_bytes": int, "programs": Texts, "compile_s": float, "groups": tuple[group, ...],
    }  # fmt: skip
    costs = forms.part("Stats", stats)
    compiled: Fields = {
        "flops": int, "inputs": tuple[spec, ...], "outputs": tuple[spec, ...], "stats": costs,
        "metadata": dict[str, str],
        "placement": tuple[placed, ...],
    }  # fmt: skip
    graph = forms.part("Graph", {
        "inputs": tuple[spec, ...], "outputs": tuple[spec, ...], "opsets": dict[str, int],
        "nodes": int, "ops": dict[str, int], "parameters": int, "weight_bytes": int, "flops": int,
        "unknown_flops": int,
    })  # fmt: skip
    bench = _bench_fields(forms)
    profile: Fields = {
        "model": str, "machine": Machine, "times": RunTimes, "roofline": Roofline,
        "memory": MemoryTimeline, "findings": tuple[Finding, ...], "counters": Counters,
    }  # fmt: skip
    check = {**_fields_of(Report), "verdict": int}
    accuracy = {"reference": str, "passed": bool, "outputs": tuple[OutputReport, ...]}
    documents: dict[str, tuple[Fields, tuple[type, ...]]] = {
        "whet.compile.1": ({"output": str, "file_bytes": int, **compiled}, ()),
        "whet.check.1": ({"file": str, **check}, ()),
        "whet.inspect.1": ({
            "file": str, "file_bytes": int, "graph": graph | UnsetType,
            "compiled": forms.part("Compiled", compiled) | UnsetType,
            "nodes": tuple[Fate, ...] | UnsetType,
        }, ()),
        "whet.run.1": ({
            "outputs": tuple[dict[str, Any], ...], "seconds": float, "saved": str | None,
        }, ()),
        "whet.bench.1": ({**bench, **_more_of_bench(forms)}, ()),
        "whet.compare.1": ({
            "a": str, "b": str, "threshold": float, "regression": bool,
            "launches": tuple[LaunchDifference, ...],
        }, (Versus,)),
        "whet.verify.1": ({
            "model": str, "subject": str | None, "options": dict[str, Any],
            "reference": str, "passed": bool, "outputs": tuple[OutputReport, ...] | UnsetType,
            **{name: kind | UnsetType for name, kind in _fields_of(LayersReport).items()
               if name != "reference"},
        }, ()),
        "whet.bisect.1": (
            {"model": str, "folder": str | UnsetType, "reproduce": str | UnsetType}, (Culprit,)
        ),
        "whet.reduce.1": ({
            "model": str, "failure": Failure | None, "nodes": Texts | UnsetType,
            "nodes_before": int | UnsetType, "reference": str | UnsetType,
            "trials": int | UnsetType, "folder": str | UnsetType, "reproduce": str | UnsetType,
        }, ()),
        "whet.profile.1": (profile, ()),
        "whet.optimize.1": ({
            "model": str, "output": str, "options": dict[str, Any], "trials": tuple[Trial, ...],
        }, (OptimizeReport,)),
        "whet.quantize.1": ({
            "model": str, "output": str, "config": QuantizeConfig | UnsetType,
            "samples": int | UnsetType, "quantized": dict[str, str] | UnsetType,
            "skipped": tuple[Any, ...] | UnsetType, "floats": Texts | dict[str, str],
            "bytes_before": int, "bytes_after": int, "target": dict[str, Any] | None,
            "measured": dict[str, Any] | None | UnsetType, "mode": str | UnsetType,
            "converted": int | UnsetType, "ranges_checked": bool | UnsetType,
        }, ()),
        "whet.tune.1": ({
            "model": str, "tuning": str, "seconds": float, "trials": int, "questions": int,
            "improved": int, "improved_before": int, "comparison": Versus | None,
            "entries": dict[str, Any],
        }, ()),
        "whet.migrate.1": ({
            "model": str, "folder": str, "accepted": bool, "criteria": tuple[Criterion, ...],
            "done_before": Texts, "results": dict[str, dict[str, Any]],
        }, ()),
        "whet.report.1": ({
            "model": str, "output": str, "machine": Machine, "options": dict[str, Any],
            "graph": graph, "optimize": OptimizeReport, "bench": forms.part("Bench", bench),
            "profile": forms.part("Profile", profile), "accuracy": forms.part("Accuracy", accuracy),
        }, ()),
        "whet.doctor.1": ({
            "whet": str, "python": str, "cpu": dict[str, Any], "target": str | None,
            "memory": dict[str, int | None], "packages": dict[str, str | None],
            "peers": dict[str, str | None], "cache": dict[str, Any],
            "executable_mapping": str | None, "problems": Texts, "suggestions": Texts,
        }, ()),
        "whet.ascend_commands.1": ({"folder": str, "installed": bool, "commands": Texts}, ()),
    }  # fmt: skip
    others = language_documents(forms) | demo_documents(costs) | view_documents(forms)
    documents |= {name: (fields, ()) for name, fields in others.items()}
    return {
        name: forms.document(name, fields, *records)
        for name, (fields, records) in documents.items()
    }


def _bench_fields(forms: Forms) -> Fields:
    """Return what ``whet bench`` times, which ``whet report`` has too."""
    costs = dict.fromkeys(("arena_bytes", "weight_bytes", "code_bytes", "launches"), int)
    return {
        "model": str, "threads": int, "plan": Plan, "noise": Noise, "warm_up": WarmUp,
        "times": dict[str, Summary], "comparisons": tuple[Comparison, ...],
        "seconds": dict[str, tuple[float, ...]], "largest_difference": dict[str, float],
        "costs": forms.part("Costs", {"compile_s": float, **costs}),
    }  # fmt: skip


def _more_of_bench(forms: Forms) -> Fields:
    streams = forms.part("Streams", {"streams": int, "per_second": float, "times": Summary})
    return {
        "begun": str, "subject": Subject | None, "machine": Machine,
        "goal": dict[str, Any] | None, "streams": streams | None,
        "memory": dict[str, MemoryUse] | None, "advice": tuple[Finding, ...] | None,
    }  # fmt: skip
