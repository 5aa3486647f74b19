"""4-bit weights after training and trained on: ``python -m benchmarks.quantization.training``.

All figures but the first are of QDQ files that Whet compiled. ONNX Runtime runs the trained ones
too: every value between layers is compared, in steps of its grid.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

import whet
from benchmarks.quantization import networks
from whet.torch.export import export_qat
from whet.torch.fake import QatConfig, prepare_qat

Array = np.ndarray[Any, Any]
HEADER = (
    "| network | float | {bits} bits | trained on | recovered | ONNX Runtime, trained on "
    "| values of other steps | most steps apart |\n|---|---:|---:|---:|---:|---:|---:|---:|"
)


def accuracy(found: Array, labels: Array) -> float:
    """Return the share of images that results name right, in percent."""
    return 100 * float((found.argmax(axis=1) == labels).mean())


def with_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a QDQ model whose rounded values are outputs too, as the integers that they are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    codes = [n.output[0] for n in copy.graph.node if n.op_type == "QuantizeLinear"]
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in codes
    )
    return copy


def run_onnxruntime(model: onnx.ModelProto, images: Array) -> dict[str, Array]:
    """Return all outputs as ONNX Runtime computes them, node by node."""
    import onnxruntime as ort

    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), plain, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": images}), strict=True))


def steps_apart(found: dict[str, Array], right: dict[str, Array]) -> tuple[float, int]:
    """Return the percentage of codes that differ, and by how many steps at most."""
    codes = [name for name, value in right.items() if value.dtype == np.uint8]
    away = [np.abs(found[n].astype(np.int32) - right[n].astype(np.int32)).ravel() for n in codes]
    every = np.concatenate(away)
    return 100 * float((every > 0).mean()), int(every.max())


def main() -> None:
    """Train, quantise the weights to few bits, train on, and print top-1 of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--epochs", type=int, default=8, help="of training on")
    given = parser.parse_args()
    images, labels = networks.digits()
    a, b = networks.TRAIN, networks.TRAIN + networks.CALIBRATE
    test, names = images[b:], labels[b:]
    print(HEADER.format(bits=given.bits))
    for name, build in (("resnet", networks.resnet), ("mobilenet", networks.mobilenet)):
        torch.manual_seed(1)
        net = build()
        networks.train(net, images[:a], labels[:a])
        model = networks.export(net, images[:2])
        config = {"weights": f"int{given.bits}"}
        plain = whet.quantize(model, images[a:b], config=config).model
        fake = prepare_qat(net, QatConfig(weight_bits=given.bits, learned=True))
        networks.train(fake, images[:a], labels[:a], given.epochs, rate=4e-3)
        trained = export_qat(fake, torch.tensor(images[:2]))
        top = [accuracy(whet.compile(m)({"x": test})["y"], names) for m in (model, plain, trained)]
        exposed = with_codes(trained)
        peer, own = run_onnxruntime(exposed, test), whet.compile(exposed)({"x": test})
        share, most = steps_apart(own, peer)
        recovered = (top[2] - top[1]) / (top[0] - top[1]) if top[0] > top[1] else 1.0
        print(
            f"| {name} | {top[0]:.3f} | {top[1]:.3f} | {top[2]:.3f} | {recovered:.0%} "
            f"| {accuracy(peer['y'], names):.3f} | {share:.3f} % | {most} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
