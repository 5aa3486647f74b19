"""``whet compile``: from an ONNX file to a compiled file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from whet.cli import output, report
from whet.cli.buckets import Buckets, bucket_shapes, profile_shapes
from whet.cli.graph_facts import read_graph_facts
from whet.cli.opening import COMPILED_SUFFIX, compile_file
from whet.cli.parameters import (
    Shapes,
    bucket_options,
    compiler_options,
    json_option,
    parse_batches,
    parse_images,
    parse_profiles,
    read_options,
)
from whet.cli.pictures import preprocess_option
from whet.errors import OptionError


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "target_file",
    type=click.Path(path_type=Path),
    help="Compiled file; MODEL's name with .whet, in the current folder, if not given.",
)
@bucket_options[0]
@bucket_options[1]
@bucket_options[2]
@preprocess_option
@compiler_options
@json_option
def command(model: Path, target_file: Path | None, as_json: bool, **compiler: Any) -> None:
    """Compile the ONNX file MODEL to native code.

    Example: whet compile m.onnx -o m.whet --shape x:1,3,224,224 --threads 2
    """
    given, options = read_options(compiler)
    shapes = _bucketed(model, given, compiler)
    destination = target_file or Path(model.stem + COMPILED_SUFFIX)
    output.check_writable(destination)
    compiled = compile_file(model, shapes, options, compiler["preprocess"])
    compiled.save(destination)
    size = destination.stat().st_size
    if as_json:
        facts = {"output": str(destination), "file_bytes": size}
        output.print_json(facts | report.model_as_json(compiled), schema="whet.compile.1")
        return
    console = output.stdout()
    report.print_model(console, compiled)
    console.print(f"wrote {destination} ({output.format_bytes(size)})", markup=False)


def _bucketed(model: Path, given: Shapes | None, compiler: dict[str, Any]) -> Buckets | None:
    """Return the shapes that programs are made for, from what the options say."""
    batches = parse_batches(compiler["dynamic_batch"])
    images = parse_images(compiler["dynamic_image"])
    profiles = parse_profiles(compiler["dynamic_dims"])
    if profiles and (batches or images):
        raise OptionError(
            "--dynamic-dims says the size of everything",
            where="--dynamic-dims",
            hint="leave --dynamic-batch and --dynamic-image out",
        )
    inputs = read_graph_facts(model).inputs if batches or images or profiles else ()
    if profiles:
        return profile_shapes(inputs, given, profiles)
    return bucket_shapes(inputs, given, batches, images)
