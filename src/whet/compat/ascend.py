"""Ascend's and MindSpore Lite's commands, as far as they have a meaning on this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from whet.compat.amct import inline_arguments
from whet.compat.aoe import aoe
from whet.compat.check_report import check_report
from whet.compat.converter_config import read_config
from whet.compat.converter_quantisation import quantise_arguments
from whet.compat.translation import (
    Given,
    Noted,
    Refused,
    Rule,
    Translation,
    Used,
    check_profiles,
    compiled_path,
    dim_arguments,
    read_options,
    shape_arguments,
)
from whet.errors import OptionError
from whet.whole_files import is_stream

_HERE = "code is made for the CPU of this machine"
_TYPES = "arithmetic has the types of the model"

ATC: dict[str, Rule] = {
    "mode": Used("0"), "model": Used(), "framework": Used(), "output": Used(), "om": Used(),
    "input_shape": Used(), "input_format": Used(), "output_type": Used(),
    "precision_mode": Used(), "precision_mode_v2": Used(), "fusion_switch_file": Used(),
    "oo_level": Used(), "op_compiler_cache_dir": Used(), "dynamic_batch_size": Used(),
    "dynamic_image_size": Used(), "dynamic_dims": Used(), "disable_reuse_memory": Used("0"),
    "external_weight": Used("0"), "json": Used(), "check_report": Used(),
    "soc_version": Noted(_HERE), "core_type": Noted(_HERE), "aicore_num": Noted(_HERE),
    "log": Noted("messages go to stderr; --traceback shows where an error arose"),
    "deterministic": Noted("results never depend on threads or chance"),
    "sparsity": Noted("there is no sparse arithmetic"),
    "op_debug_level": Noted("set WHET_DUMP to a folder to see every stage"),
    "op_compiler_cache_mode": Noted("kernels are always cached"),
    "export_compile_stat": Noted("whet optimize --report writes what every pass did"),
    "optimization_switch": Used(),
    "weight": Refused("convert the model to ONNX, which holds its weights"),
    "out_nodes": Refused("cut the model at the node when it is exported"),
    "insert_op_conf": Used(),
    "op_bank_path": Used(),
    "mdl_bank_path": Noted("graphs are fused without tuning"),
    "compression_optimize_conf": Used(),
    "modify_mixlist": Refused(_TYPES), "keep_dtype": Noted(_TYPES),
    "op_precision_mode": Refused(_TYPES),
}  # fmt: skip

BENCHMARK: dict[str, Rule] = {
    "model": Used(), "modelFile": Used(), "output": Used(), "loopCount": Used("10"),
    "loop": Used(), "numThreads": Used("2"), "inDataFile": Used(), "input": Used(),
    "warmUpLoopCount": Noted("calls warm up until they take the same time"),
    "device": Noted(_HERE), "device_id": Noted(_HERE),
    "inputShapes": Used(),
    "benchmarkDataFile": Refused("whet verify compares outputs with golden ones"),
    "accuracyThreshold": Refused("whet verify --threshold mean_relative=0.005"),
    "cosineDistanceThreshold": Refused("whet verify --threshold cosine=0.999"),
    "timeProfiling": Refused("whet profile shows the time of every launch"),
    "perfProfiling": Refused("whet profile reads hardware counters"),
    "enableParallelPredict": Used(), "parallelNum": Used(),
}  # fmt: skip

GRAPH_OPT: dict[str, Rule] = {
    "config": Used(), "optimize": Noted("it always does"), "model": Used(), "output": Used(),
    "report": Used(),
}  # fmt: skip

PERF_COMPARE: dict[str, Rule] = {
    "baseline": Used(), "optimized": Used(), "output": Used(), "threshold": Used(),
}  # fmt: skip

MSPROF: dict[str, Rule] = {
    "model": Used(), "output": Used(), "iterations": Used(),
    "application": Refused("whet profile runs a model by itself: give --model"),
    "ascendcl": Noted(_HERE), "runtime-api": Noted(_HERE), "task-time": Noted("it is always on"),
    "aicpu": Noted(_HERE), "ai-core": Noted(_HERE), "aic-metrics": Noted(_HERE),
    "sys-hardware-mem": Noted("memory is always part of the profile"),
}  # fmt: skip

CONVERTER_LITE: dict[str, Rule] = {
    "fmk": Used(), "modelFile": Used(), "outputFile": Used(), "inputShape": Used(),
    "optimize": Used("general"), "fp16": Used("off"),
    "saveType": Noted("the file is a .whet"), "device": Noted(_HERE),
    "inputDataType": Refused(_TYPES), "outputDataType": Refused(_TYPES),
    "inputDataFormat": Noted("inputs keep the layout of the model"),
    "configFile": Used(),
    "weightFile": Refused("convert the model to ONNX, which holds its weights"),
    "encryption": Refused("files are not encrypted"),
    "decryptKey": Refused("files are not encrypted"),
}  # fmt: skip


def atc(arguments: Sequence[str]) -> Translation:
    """Translate the model compiler: mode 0 compiles, 1 and 6 show, 3 checks."""
    given = read_options(arguments, ATC)
    _check_atc(given)
    mode = given.need("mode")
    if mode == "0":
        return _compile(given)
    if mode == "6":
        return Translation(["inspect", compiled_path(given.need("om", "model"))], given.notes)
    if mode == "1":
        shown, file = compiled_path(given.need("om", "model")), given.get("json")
        shown_in = None if file is None else (Path(file), lambda text: text)
        return Translation(["inspect", shown, "--json"], given.notes, save=shown_in)
    if mode == "3":
        model, file = given.need("model"), given.get("check_report") or "check_result.json"
        save = Path(file), lambda text: check_report(text, model)
        return Translation(["check", model, "--json"], given.notes, save=save, fine=(0, 1))
    raise OptionError(f"--mode={mode} is not available", hint="give 0, 1, 3 or 6")


def _check_atc(given: Given) -> None:
    given.choose("framework", {"5": ""}, "convert the model to ONNX and give --framework=5")
    given.choose("input_format", {"NCHW": "", "ND": ""}, "inputs keep the layout of the model")
    given.choose("output_type", {"FP32": ""}, "outputs keep the type of the model")
    given.choose("disable_reuse_memory", {"0": ""}, "whet compile -O0 shares no memory")
    given.choose("external_weight", {"0": ""}, "weights are mapped from the .whet file")
    allowed = {"allow_fp32_to_fp16": _TYPES, "allow_mix_precision": _TYPES}
    kept = {"force_fp32": "", "must_keep_origin_dtype": "", **allowed}
    given.choose("precision_mode", kept, "convert the ONNX model to float16 first")
    origin = {"origin": "", "mixed_float16": _TYPES}
    given.choose("precision_mode_v2", origin, "convert the ONNX model to float16 first")
    check_profiles(given, ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims"))


def _compile(given: Given) -> Translation:
    model, before = given.need("model"), tuple[str, ...]()
    conf = given.get("compression_optimize_conf")
    if conf is not None:
        quantise, notes = inline_arguments(Path(conf))
        given.notes.extend(notes)
        small = f"{given.need('output')}.quantized.onnx"
        model, before = small, ("quantize", model, "-o", small, *quantise)
    command = ["compile", model, "-o", f"{given.need('output')}.whet"]
    shape = given.get("input_shape")
    if shape is not None:
        command += shape_arguments(shape)
    level = given.get("oo_level")
    if level is not None:
        given.choose("oo_level", dict.fromkeys(("O0", "O1", "O2", "O3"), ""), "give O0 to O3")
        command.append(f"-{level}")
    command += _switch_arguments(given)
    for name, flag, pairs in (
        ("dynamic_batch_size", "--dynamic-batch", (("", ""),)),
        ("dynamic_image_size", "--dynamic-image", ((",", "x"), (";", ","))),
        ("dynamic_dims", "--dynamic-dims", (("", ""),)),
    ):
        profiles = given.get(name)
        for old, new in pairs if profiles else ():
            profiles = profiles.replace(old, new) if profiles and old else profiles
        command += [flag, profiles] if profiles is not None else []
    aipp = given.get("insert_op_conf")
    command += ["--preprocess", aipp] if aipp is not None else []
    bank = given.get("op_bank_path")
    command += ["--tuning", bank] if bank is not None else []
    cache = given.get("op_compiler_cache_dir")
    if cache is not None:
        command += ["--cache-dir", cache]
    return Translation(
        command,
        given.notes,
        first="ATC start working now, please wait for a moment.",
        last="ATC run success",
        before=before,
    )


def _switch_arguments(given: Given) -> list[str]:
    from whet.optimize.switches import read_switches, switches_from_text

    switches: dict[str, bool] = {}
    file = given.get("fusion_switch_file", "fusion_switch_config_file_path")
    if file is not None:
        switches |= read_switches(Path(file))
    inline = given.get("optimization_switch")
    if inline is not None:
        switches |= switches_from_text(inline.replace(";", "\n"), "--optimization_switch")
    words = [f"{name}={'on' if on else 'off'}" for name, on in switches.items()]
    return [argument for word in words for argument in ("--pass", word)]


def benchmark(arguments: Sequence[str]) -> Translation:
    """Translate both benchmarks: ``--model`` and ``--output``, or ``--modelFile``."""
    given = read_options(arguments, BENCHMARK)
    model = compiled_path(given.need("model", "modelFile"))
    threads = given.need("numThreads")
    target = given.get("output") or str(Path(tempfile.mkdtemp()) / "bench.json")
    command = ["bench", model, "--rounds", given.need("loop", "loopCount"), "--threads", threads]
    source = given.get("input", "inDataFile")
    if source is not None:
        command += ["--input", source]
    streams = given.get("parallelNum")
    if given.get("enableParallelPredict") == "true" and streams is not None:
        command += ["--streams", streams]
    shapes = given.get("inputShapes")
    if shapes is not None:
        compiled = Path(model).suffix == ".whet"
        command += dim_arguments(shapes, Path(model)) if compiled else shape_arguments(shapes)
    command += ["--json", target]
    kept = not is_stream(Path(target))
    report = (lambda: _run_times(model, threads, target)) if kept else None
    return Translation(command, given.notes, report=report)


def _run_times(model: str, threads: str, path: str) -> str:
    """Return the line that the benchmark of MindSpore Lite ends with."""
    times = json.loads(Path(path).read_text())["times"]["whet"]
    return (
        f"Model = {Path(model).name}, numThreads = {threads}, "
        f"MinRunTime = {times['best_ms']:.6f} ms, "
        f"MaxRuntime = {times['max_ms']:.6f} ms, AvgRunTime = {times['mean_ms']:.6f} ms"
    )


def graph_opt(arguments: Sequence[str]) -> Translation:
    """Translate the graph optimiser of the articles: a strategy file."""
    given = read_options(arguments, GRAPH_OPT)
    command = ["optimize"]
    for name, flag in (
        ("model", ""),
        ("config", "--config"),
        ("output", "-o"),
        ("report", "--report"),
    ):
        value = given.get(name)
        if value is not None:
            command += [flag, value] if flag else [value]
    return Translation(command, given.notes)


def perf_compare(arguments: Sequence[str]) -> Translation:
    """Translate the comparison of two measurements, to a page."""
    given = read_options(arguments, PERF_COMPARE)
    command = ["compare", given.need("baseline"), given.need("optimized")]
    page, threshold = given.get("output"), given.get("threshold")
    command += ["--html", page] if page is not None else []
    command += ["--threshold", threshold] if threshold is not None else []
    return Translation(command, given.notes)


def msprof(arguments: Sequence[str]) -> Translation:
    """Translate the profiler, for a compiled model."""
    given = read_options(arguments, MSPROF)
    command = ["profile", compiled_path(given.need("model")), "-o", given.need("output")]
    runs = given.get("iterations")
    command += ["--runs", runs] if runs is not None else []
    return Translation(command, given.notes)


def converter_lite(arguments: Sequence[str]) -> Translation:
    """Translate MindSpore Lite's converter."""
    given = read_options(arguments, CONVERTER_LITE)
    given.choose("fmk", {"ONNX": ""}, "convert the model to ONNX and give --fmk=ONNX")
    given.choose("fp16", {"off": ""}, "convert the ONNX model to float16 first")
    kept = {"general": "", "none": "", "ascend_oriented": _HERE, "gpu_oriented": _HERE}
    given.choose("optimize", kept, "give none or general")
    model, target = given.need("modelFile"), given.need("outputFile")
    file = given.get("configFile")
    config = Given({}) if file is None else read_config(Path(file))
    quantise, before = quantise_arguments(config), tuple[str, ...]()
    if quantise:
        before = ("quantize", model, "-o", f"{target}.quantized.onnx", *quantise)
        model = f"{target}.quantized.onnx"
    given.notes.extend(config.notes)
    command = ["compile", model, "-o", f"{target}.whet"]
    shape = given.get("inputShape") or config.get("input_shape")
    command += shape_arguments(shape) if shape is not None else []
    level = "0" if given.get("optimize") == "none" else config.get("opt_level")
    command += [f"-O{level}"] if level is not None else []
    command += _switch_arguments(config)
    aipp = config.get("insert_op_config_file_path")
    command += ["--preprocess", aipp] if aipp is not None else []
    last = "CONVERT RESULT SUCCESS:0"
    return Translation(command, given.notes, last=last, before=before)


TOOLS: dict[str, Callable[[Sequence[str]], Translation]] = {
    "atc": atc,
    "benchmark": benchmark,
    "graph_opt": graph_opt,
    "perf_compare": perf_compare,
    "msprof": msprof,
    "converter_lite": converter_lite,
    "aoe": aoe,
}
"""Tools by the name of their command."""

EXAMPLES = {
    "atc": "--model=m.onnx --framework=5 --output=m --input_shape=x:1,3,224,224",
    "benchmark": "--model=m.om --loopCount=20 --numThreads=2 --output=after.json",
    "graph_opt": "--config=optimization_config.json --optimize",
    "perf_compare": "--baseline=before.json --optimized=after.json --output=report.html",
    "msprof": "--model=m.om --output=profile",
    "converter_lite": "--fmk=ONNX --modelFile=m.onnx --outputFile=m",
    "aoe": "--framework=5 --model=m.onnx --job_type=2",
}
