"""Forms of the documents that are not those of one command: pages, demonstration, ``whet llm``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UnsetType

from whet.llm.measure.ablation import Load
from whet.llm.measure.against import Duel
from whet.llm.measure.bench import Run
from whet.measure.statistics import Comparison, Summary

if TYPE_CHECKING:
    from whet.cli.forms import Forms

Fields = dict[str, Any]
Texts = tuple[str, ...]


def language_documents(forms: Forms) -> dict[str, Fields]:
    """Return the fields of what the commands below ``whet llm`` print."""
    completion: Any = forms.part("Completion", {
        "text": str, "tokens": tuple[int, ...], "reason": str, "prompt_tokens": int,
        "cached_tokens": int,
    })  # fmt: skip
    switches: Any = forms.part("Switches", {
        "kv_cache": bool, "fusion": bool, "batch": int, "precision": str,
    })  # fmt: skip
    variant: Any = forms.part("Variant", {
        "name": str, "switches": switches, "latency_ms": float, "throughput": float,
        "memory_bytes": int, "same_tokens": float,
    })  # fmt: skip
    return {
        "whet.llm.run.1": {"completions": tuple[completion, ...]},
        "whet.llm.bench.1": {"runs": tuple[Run, ...]},
        "whet.llm.against.1": {
            "against": str, "read_gbytes": float, "streamed_bytes": int,
            "duels": tuple[Duel, ...], "engine": tuple[Run, ...],
        },
        "whet.llm.ablate.1": {"model": str, "load": Load, "rows": tuple[variant, ...]},
        "whet.llm.quantize.1": {
            "matrices": int, "format": str, "method": str, "before": float | UnsetType,
            "after": float | UnsetType, "tokens": int | UnsetType,
        },
        "whet.llm.text.1": {"text": str, "tokens": tuple[int, ...]},
        "whet.llm.texts.1": {"texts": Texts},
    }  # fmt: skip


def demo_documents(stats: type) -> dict[str, Fields]:
    """Return the fields of what ``whet demo`` prints; ``stats`` is what a model costs."""
    costs: Any = stats
    return {
        "whet.demo.1": {
            "file": str, "file_bytes": int, "compile_s": float, "load_s": float, "judge": str,
            "relative_error": float, "tolerance": float, "correct": bool,
            "comparisons": tuple[Comparison, ...], "times": dict[str, Summary],
            "stats": dict[str, costs],
        },
        "whet.demo_network.1": {"onnx": str},
    }  # fmt: skip


def view_documents(forms: Forms) -> dict[str, Fields]:
    """Return the fields of what ``whet inspect --view`` prints."""
    error: Any = forms.part("ValueError", {
        "value": str, "place": str, "own": float | None, "accumulated": float | None,
        "level": str,
    })  # fmt: skip
    node: Any = forms.part("Node", {
        "name": str, "op": str, "reads": Texts, "writes": Texts,
        "outputs": tuple[tuple[str, str], ...], "launches": tuple[int, ...],
        "errors": tuple[error, ...],
    })  # fmt: skip
    launch: Any = forms.part("LaunchShown", {
        "index": int, "kernel": str, "ops": Texts, "nodes": Texts, "reads": Texts,
        "writes": Texts, "span_us": float | None, "share": float | UnsetType,
        "gflops": float | UnsetType, "gbytes": float | UnsetType, "bound": str | UnsetType,
    })  # fmt: skip
    run: Any = forms.part("RunTime", {"plain_us": float, "threads": int})
    return {
        "whet.view.1": {
            "model": str, "target": str, "times": run | None, "reference": str | None,
            "nodes": tuple[node, ...], "launches": tuple[launch, ...], "output": str,
        },
    }  # fmt: skip
