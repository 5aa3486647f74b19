"""``whet compile``: from an ONNX file to a compiled file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from whet.cli import output, report
from whet.cli.opening import COMPILED_SUFFIX, compile_file
from whet.cli.parameters import compiler_options, json_option, read_options


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "target_file",
    type=click.Path(path_type=Path),
    help="Compiled file; MODEL's name with .whet, in the current folder, if not given.",
)
@compiler_options
@json_option
def command(model: Path, target_file: Path | None, as_json: bool, **compiler: Any) -> None:
    """Compile the ONNX file MODEL to native code.

    Example: whet compile m.onnx -o m.whet --shape input:1,3,224,224 --threads 2
    """
    shapes, options = read_options(compiler)
    destination = target_file or Path(model.stem + COMPILED_SUFFIX)
    output.check_writable(destination)
    compiled = compile_file(model, shapes, options)
    compiled.save(destination)
    size = destination.stat().st_size
    if as_json:
        facts = {"output": str(destination), "file_bytes": size}
        output.print_json(facts | report.model_as_json(compiled), schema="whet.compile.1")
        return
    console = output.stdout()
    report.print_model(console, compiled)
    console.print(f"wrote {destination} ({output.format_bytes(size)})", markup=False)
