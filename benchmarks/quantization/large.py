"""Quantise a model beyond 2 GiB; print the memory: ``python -m benchmarks.quantization.large``."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 4096
LAYERS = 36
"""36 matrices of 4096 x 4096 in float32: 2.25 GiB."""


def write_stack(path: Path, layers: int, width: int) -> None:
    """Write products one behind the other, with their matrices in a file beside the model."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], "x"
    with (path.parent / "weights.bin").open("wb") as file:
        for k in range(layers):
            matrix = rng.standard_normal((width, width), np.float32)
            matrix /= np.float32(np.sqrt(width))
            tensor = numpy_helper.from_array(np.zeros(0, np.float32), f"w{k}")
            tensor.ClearField("raw_data")
            tensor.dims[:] = matrix.shape
            tensor.data_location = TensorProto.EXTERNAL
            facts = {"location": "weights.bin", "offset": file.tell(), "length": matrix.nbytes}
            for key, fact in facts.items():
                tensor.external_data.add(key=key, value=str(fact))
            file.write(matrix.tobytes())
            constants.append(tensor)
            nodes += [
                helper.make_node("MatMul", [value, f"w{k}"], [f"m{k}"], name=f"product{k}"),
                helper.make_node("Relu", [f"m{k}"], [f"r{k}"]),
            ]
            value = f"r{k}"
    nodes[-1].output[0] = "y"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", width]) for n in "xy"]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def quantised(folder: Path, words: list[str]) -> str:
    """Run ``whet quantize`` and return its time, the memory it took and what it wrote."""
    start = time.perf_counter()
    line = [sys.executable, "-m", "whet.cli.main", "quantize", "m.onnx", "-o", "q.onnx", *words]
    subprocess.run(line, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    sizes = [f"{p.name} {p.stat().st_size / (1 << 30):.2f} GiB" for p in folder.glob("q.onnx*")]
    return f"{' '.join(words)}: {seconds:.0f} s, at most {peak:.1f} GiB resident; {sizes}"


def main() -> None:
    """Print one line a mode; memory is the largest of all so far, so start with the smallest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--mode", choices=("static", "weights", "float16"), default="static")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_stack(folder / "m.onnx", given.layers, given.width)
        x = np.random.default_rng(1).standard_normal((8, given.width), np.float32)
        np.save(folder / "x.npy", x)
        more = [] if given.mode == "weights" else ["--calibration", "x.npy"]
        print(quantised(folder, ["--mode", given.mode, *more]), flush=True)


if __name__ == "__main__":
    main()
