"""``whet doctor``: what the machine offers, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console

from whet import __version__
from whet.cli import exits, machine, output
from whet.cli.parameters import json_option
from whet.errors import WhetError
from whet.settings import read_settings

REQUIRED = ("numpy", "ml_dtypes", "llvmlite", "onnx", "onnx-ir", "msgspec", "click", "rich")
# Package, and how to get it.
OPTIONAL = {
    "onnxruntime": "pip install 'whet[bench]'",
    "openvino": "pip install 'whet[bench]'",
    "torch": "pip install 'whet[torch]'",
}


@click.command("doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show what this machine offers and what is missing; exit code 1 if models cannot compile.

    Example: whet doctor --json
    """
    facts = examine()
    if as_json:
        output.print_json(facts, schema="whet.doctor.1")
    else:
        _print(output.stdout(), facts)
    if facts["problems"]:
        ctx.exit(exits.NEGATIVE)


def examine() -> dict[str, Any]:
    """Collect everything as a JSON value; ``problems`` holds what keeps Whet from working."""
    cache = machine.read_cache(read_settings().cache_dir)
    target, target_problem = _read_target()
    facts: dict[str, Any] = {
        "whet": __version__,
        "python": machine.python_version(),
        "cpu": asdict(machine.read_cpu()),
        "target": target,
        "memory": asdict(machine.read_memory()),
        "packages": {name: machine.package_version(name) for name in REQUIRED},
        "peers": {name: machine.package_version(name) for name in OPTIONAL},
        "cache": asdict(cache) | {"path": str(cache.path)},
        "executable_mapping": machine.check_executable_mapping(),
    }
    facts["problems"] = [*_find_problems(facts), *([target_problem] if target_problem else [])]
    facts["suggestions"] = list(_find_suggestions(facts))
    return facts


def _read_target() -> tuple[str | None, str | None]:
    """Return what code is generated for here, or why none can be."""
    try:
        from whet.codegen.objects.targets import host_target

        target = host_target()
    except (ImportError, WhetError) as error:
        return None, f"no native code: {error}"
    return f"{target.triple} {target.cpu}, {8 * target.vector_bytes}-bit vectors", None


def _find_problems(facts: dict[str, Any]) -> Iterator[str]:
    """Say what keeps Whet from working here, and the remedy."""
    for name, version in facts["packages"].items():
        if version is None:
            yield f"{name} is not installed: pip install {name}"
    if facts["executable_mapping"]:
        yield (
            f"files cannot be mapped executable ({facts['executable_mapping']}): mount the "
            "temporary folder without noexec, or set TMPDIR to a folder that allows it"
        )


def _find_suggestions(facts: dict[str, Any]) -> Iterator[str]:
    """Say what would make Whet better here."""
    for name, version in facts["peers"].items():
        if version is None:
            yield f"{name} is not installed, so it cannot be compared with: {OPTIONAL[name]}"
    cache = facts["cache"]
    if cache["problem"]:
        yield (
            f"the cache {cache['path']} cannot be written ({cache['problem']}), so every "
            "compilation starts from nothing: set WHET_CACHE_DIR"
        )
    cpu = facts["cpu"]
    if cpu["quota"] is not None and cpu["quota"] < cpu["allowed"]:
        yield (
            f"the container grants {cpu['quota']:g} of {cpu['allowed']} processors: "
            f"compile with --threads {max(1, int(cpu['quota']))}"
        )


def _print(console: Console, facts: dict[str, Any]) -> None:
    """Print the facts, one a line, and then what to do."""
    for name, value in _lines(facts):
        console.print(f"{name:<20}{value}", markup=False, soft_wrap=True)
    for problem in facts["problems"]:
        console.print(f"problem:  {problem}", style="red", markup=False, soft_wrap=True)
    for suggestion in facts["suggestions"]:
        console.print(f"missing:  {suggestion}", style="yellow", markup=False, soft_wrap=True)
    if not facts["problems"]:
        console.print("ready to compile", style="green")


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and value of every fact."""
    cpu, memory, cache = facts["cpu"], facts["memory"], facts["cache"]
    quota = "" if cpu["quota"] is None else f", container quota {cpu['quota']:g}"
    limit = "" if memory["limit"] is None else f", limit {output.format_bytes(memory['limit'])}"
    total, free = (output.format_bytes(memory[key]) for key in ("total", "available"))
    yield "whet", facts["whet"]
    yield "python", facts["python"]
    yield "processor", cpu["model"]
    yield "vector features", ", ".join(cpu["features"]) or "none known"
    yield "code is made for", facts["target"] or "nothing"
    yield "processors", f"{cpu['allowed']} allowed of {cpu['present']}{quota}"
    yield "caches", ", ".join(f"{name} {size}" for name, size in cpu["caches"].items()) or "unknown"
    yield "memory", f"{total}, {free} available{limit}"
    versions = {**facts["packages"], **facts["peers"]}
    yield "packages", ", ".join(f"{n} {v}" for n, v in versions.items() if v)
    state = f"not writable: {cache['problem']}" if cache["problem"] else "writable"
    yield "cache", f"{cache['path']} ({state}, {output.format_bytes(cache['size_bytes'])})"
    yield "executable mapping", facts["executable_mapping"] or "permitted"
