"""``whet quantize``: a float ONNX model becomes a quantised one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from whet.cli import output
from whet.cli.parameters import NumberRange, choice_option, json_option, parse_shapes
from whet.cli.progress import ProgressBar
from whet.cli.quantize_images import read_images
from whet.cli.quantize_modes import check_modes
from whet.errors import OptionError
from whet.options import Options
from whet.whole_files import is_stream
from whet.words import counted

if TYPE_CHECKING:
    from whet.quantize.api import QuantizeReport
    from whet.quantize.config import QuantizeConfig
    from whet.quantize.convert import ConvertReport
    from whet.quantize.measured import MeasuredReport
    from whet.quantize.target import TargetReport

SCHEMA = "whet.quantize.1"
_CALIBRATORS = ("minmax", "moving_average", "percentile", "mse", "entropy", "scale_search")


@click.command("quantize")
@click.argument("model", type=click.Path(path_type=Path))
@choice_option("--mode", ("static", "weights", "float16", "bfloat16"),
               "Activations and weights, weights alone, or 16-bit floats.")  # fmt: skip
@choice_option("--bits", ("4", "8"), "Of weights, with --mode weights.")
@click.option("--block", type=int, default=32, show_default=True,
              help="Weights that share a scale, with --mode weights.")  # fmt: skip
@choice_option(
    "--method", ("nearest", "gptq", "awq"), "How weights are rounded, with --mode weights."
)
@choice_option(
    "--form", ("dequantize", "matmulnbits"), "How they are written, with --mode weights."
)
@click.option("--integer-rows", is_flag=True,
              help="With --form matmulnbits: let rows become 8-bit integers.")  # fmt: skip
@click.option("--calibration", type=click.Path(path_type=Path), metavar="DATA",
              help="A .npy, .npz or image file, or a folder of them.")  # fmt: skip
@click.option("-o", "--output", "target_file", type=click.Path(path_type=Path),
              help="Quantised ONNX file; MODEL's name with .int8.onnx if not given.")  # fmt: skip
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="F",
              help="A configuration in JSON, such as --report writes, or one of AMCT.")  # fmt: skip
@click.option("--calibrator", type=click.Choice(_CALIBRATORS),
              help="How ranges of activations are chosen; mse if not given.")  # fmt: skip
@click.option("--activations", type=click.Choice(("uint8", "int8", "uint16", "int16")),
              help="Type of activations; uint8 if not given.")  # fmt: skip
@click.option("--symmetric", is_flag=True, default=None,
              help="Give activations the zero point in the middle.")  # fmt: skip
@click.option("--per-tensor", is_flag=True,
              help="Give a weight one scale, not one for each output channel.")  # fmt: skip
@click.option("--asymmetric", is_flag=True,
              help="Give weights zero points, where their range is not centred on 0.")  # fmt: skip
@click.option("--rounding", type=click.Choice(("nearest", "adaptive", "gptq")),
              help="How weights are rounded; nearest if not given.")  # fmt: skip
@click.option("--smooth", type=NumberRange(0, 1), metavar="ALPHA",
              help="Move the spread of activations into weights (SmoothQuant).")  # fmt: skip
@click.option("--equalize", is_flag=True, default=None,
              help="Balance weights across layers first.")  # fmt: skip
@click.option("--functions", is_flag=True, default=None,
              help="Let functions such as Swish read 8 bits too, which is faster.")  # fmt: skip
@click.option("--bias-correction", is_flag=True, default=None,
              help="Take mean errors out through the biases.")  # fmt: skip
@click.option("--skip", "skipped", multiple=True, metavar="LAYER",
              help="Leave a layer in float; may be repeated.")  # fmt: skip
@click.option(
    "--max-drop",
    metavar="DROP",
    help="Largest drop of the metric, such as 0.5%; layers stay in float for it.",
)
@click.option("--metric", default="top1", show_default=True,
              help="top1, cosine, or FILE.py:FUNCTION, whose file is executed.")  # fmt: skip
@click.option("--evaluation", type=click.Path(path_type=Path), metavar="DATA",
              help="What the metric is measured on; the calibration data by default.")  # fmt: skip
@click.option("--measured", is_flag=True,
              help="Keep a layer in 8 bits only if it is faster here.")  # fmt: skip
@choice_option(
    "--goal", ("speed", "balance", "accuracy"), "Which mixture is wanted, with --measured."
)
@click.option("--samples", type=click.IntRange(0), help="Most samples that are calibrated with.")
@click.option("--batch", type=click.IntRange(1), help="Samples at a time, where that is open.")
@click.option("--seed", type=int, help="Seed of everything that is drawn by chance.")
@click.option(
    "--image",
    "image",
    metavar="KEY=VALUE,…",
    help="How images become inputs: imagenet, or resize, scale, mean, std, order.",
)
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder from which interrupted work goes on.")  # fmt: skip
@click.option("--shape", "shapes", multiple=True, metavar="NAME:DIMS",
              help="Fix an input's shape, such as input:1,3,224,224; may be repeated.")  # fmt: skip
@click.option("--threads", type=click.IntRange(0, 1024), default=0,
              help="Threads of calibration; 0 takes every CPU.")  # fmt: skip
@click.option("--report", "report_file", type=click.Path(path_type=Path), metavar="F",
              help="Write the report to F: JSON, or a page if F ends in .html.")  # fmt: skip
@json_option
@click.pass_context
def command(
    context: click.Context, /, model: Path, target_file: Path | None, as_json: bool, **values: Any
) -> None:
    """Quantise the ONNX file MODEL, for Whet or any other runtime.

    Example: whet quantize m.onnx --calibration data/ -o m.int8.onnx --max-drop 0.5%
    """
    mode, report_file = values["mode"], values["report_file"]
    check_modes(context, mode)
    ending = {"static": "int8", "weights": f"int{values['bits']}"}.get(mode, mode)
    destination = target_file or Path(f"{model.stem}.{ending}.onnx")
    for path in (destination, report_file):
        if path is not None:
            output.check_writable(path)
    if report_file == destination and not is_stream(destination):
        raise OptionError(
            "the report and the model have one name", where="--report", hint="name another file"
        )
    made = _static(model, values) if mode == "static" else _converted(model, mode, values)
    made.save(destination)
    facts = {
        "model": str(model), "output": str(destination), **msgspec.to_builtins(made.report),
    }  # fmt: skip
    if report_file is not None:
        _write_report(report_file, facts)
    if as_json:
        output.print_json(facts, schema=SCHEMA)
        return
    if mode == "static":
        print_report(output.stdout(), made.report)
    else:
        _print_conversion(output.stdout(), made.report)
    output.stdout().print(f"wrote {destination}", markup=False)


def _converted(model: Path, mode: Any, values: Mapping[str, Any]) -> Any:
    """Quantise weights alone, or convert to 16-bit floats, as the command line says."""
    from whet.quantize.api import Goal
    from whet.quantize.convert import convert_floats, convert_weights
    from whet.quantize.static import Request
    from whet.quantize.weights import WeightConfig

    if mode == "weights" and values["method"] != "nearest":
        _need_calibration(values)
    with ProgressBar() as progress:
        request = Request(
            source=model,
            calibration=values["calibration"],
            config=_config(values),
            shapes=parse_shapes(values["shapes"]),
            options=Options(threads=values["threads"]),
            images=read_images(values["image"]),
            progress=progress,
        )
        if mode == "weights":
            how = WeightConfig(
                bits=4 if values["bits"] == "4" else 8,
                block=values["block"],
                symmetric=not values["asymmetric"],
                method=values["method"],
                form=values["form"],
                integer_rows=values["integer_rows"],
                skip=tuple(values["skipped"]),
            )
            return convert_weights(request, how)
        goal = Goal(values["max_drop"], values["metric"], values["evaluation"])
        return convert_floats(request, mode, goal)


def _need_calibration(values: Mapping[str, Any]) -> None:
    if values["calibration"] is None:
        raise OptionError(
            "there is no calibration data",
            where="--calibration",
            hint="give files, or a folder of them",
        )


def _static(model: Path, values: Mapping[str, Any]) -> Any:
    """Run static quantisation as the command line says."""
    from whet.quantize.api import quantize

    _need_calibration(values)
    options = Options(threads=values["threads"])
    timer = _timer(model, options, values) if values["measured"] else None
    with ProgressBar() as progress:
        return quantize(
            model,
            values["calibration"],
            config=_config(values),
            max_drop=values["max_drop"],
            metric=values["metric"],
            evaluation=values["evaluation"],
            shapes=parse_shapes(values["shapes"]),
            options=options,
            images=read_images(values["image"]),
            state=values["state"],
            progress=progress,
            timer=timer,
            pick=values["goal"] if timer else None,
        )


def _timer(model: Path, options: Options, values: Mapping[str, Any]) -> Any:
    """Return a clock that runs on the first batch of the calibration data."""
    import whet
    from whet.cli.quantize_timer import GraphTimer
    from whet.quantize.data import CalibrationData

    specs = whet.compile(model, shapes=parse_shapes(values["shapes"]), options=options).inputs
    data = CalibrationData(values["calibration"], specs, 1, images=read_images(values["image"]))
    return GraphTimer(options, [next(iter(data.batches())).feeds])


def _config(values: Mapping[str, Any]) -> QuantizeConfig:
    """Put the command line over the configuration file."""
    from whet.compat.amct import is_amct, read_amct
    from whet.quantize.config import config_from_dict, read_config

    base: dict[str, Any] = {}
    file = values["config_file"]
    if file is not None and is_amct(file):
        found = read_amct(file)
        for note in found.notes:
            output.note(f"note: {note}")
        base = found.values
    elif file is not None:
        base = msgspec.to_builtins(read_config(file))
    same = ("calibrator", "activations", "rounding", "smooth", "equalize", "functions",
            "bias_correction", "samples", "batch", "seed")  # fmt: skip
    given = {name: values[name] for name in same if values[name] is not None}
    if values["symmetric"]:
        given["activations_symmetric"] = True
    if values["per_tensor"]:
        given["per_channel"] = False
    if values["asymmetric"]:
        given["weights_symmetric"] = False
    layers = {**base.get("layers", {}), **dict.fromkeys(values["skipped"], "float")}
    return config_from_dict({**base, **given, "layers": layers}, "command line")


def _write_report(path: Path, facts: Mapping[str, Any]) -> None:
    if path.suffix == ".html":
        from whet.report.quantization import quantization_page

        output.write_text(path, quantization_page(facts))
    else:
        output.write_text(path, output.json_text(facts, SCHEMA) + "\n")


def print_report(console: Console, report: QuantizeReport) -> None:
    """Print what was quantised and how the target was reached."""
    if report.target is not None:
        _print_target(console, report.target)
    if report.measured is not None:
        _print_measured(console, report.measured)
    for skipped in report.skipped:
        console.print(
            f"left alone: {skipped.name} ({skipped.op}): {skipped.why}", markup=False,
            soft_wrap=True,
        )  # fmt: skip
    console.print(
        f"{counted(len(report.quantized), 'layer')} quantised, {len(report.floats)} in float, "
        f"calibrated with {counted(report.samples, 'sample')}; weights "
        f"{output.format_bytes(report.bytes_before)} → {output.format_bytes(report.bytes_after)}",
        soft_wrap=True,
    )


def _print_measured(console: Console, measured: MeasuredReport) -> None:
    rows = [
        (g.name, g.op, f"{g.gain_ms:+.4f}", "yes" if g.differs else "no", f"{g.own_error:.3e}",
         "int8" if g.kept else "float") for g in measured.gains
    ]  # fmt: skip
    headers = ("layer", "operator", "gain ms", "beyond doubt", "own error", "choice")
    console.print(output.table(headers, rows, title="what 8 bits gain here"))
    points = [
        (str(p.layers), f"{p.time_ratio:.3f}", f"{p.error:.3e}", f"{p.value:.4f}",
         "yes" if p.on_front else "", measured.goal if p.chosen else "") for p in measured.points
    ]  # fmt: skip
    headers = ("layers in int8", "time / float", "error", "metric", "on the front", "goal")
    console.print(output.table(headers, points, title="mixtures of precisions"))


def _print_conversion(console: Console, report: ConvertReport) -> None:
    """Print what was converted."""
    if report.mode == "float16" and not report.ranges_checked:
        output.note("note: values beyond 65504 become infinite; --calibration looks for them")
    if report.target is not None:
        _print_target(console, report.target)
    for name, why in report.floats.items():
        console.print(f"left in float32: {name}: {why}", markup=False, soft_wrap=True)
    console.print(
        f"{counted(report.converted, 'node')} converted, {len(report.floats)} left; weights "
        f"{output.format_bytes(report.bytes_before)} → {output.format_bytes(report.bytes_after)}",
        soft_wrap=True,
    )


def _print_target(console: Console, target: TargetReport) -> None:
    rows = [
        (r.name, r.op, f"{r.own_error:.3e}", f"{target.float_value - r.own_value:+.4f}", r.choice)
        for r in target.ranking
    ]
    if rows:
        headers = ("layer", "operator", "own error", "own drop", "choice")
        console.print(output.table(headers, rows, title="layers, the most sensitive first"))
    console.print(
        f"metric {target.float_value:.4f} in float, {target.value:.4f} quantised: a drop of "
        f"{target.drop:.4%}, allowed {target.max_drop:.4%}; "
        f"{counted(len(target.trials), 'variant')} judged",
        soft_wrap=True,
    )
