"""4-bit weights after training and trained on: ``python -m benchmarks.quantization.training``.

All figures are of files that Whet compiled. ONNX Runtime runs the trained ones too: what each layer
makes of the same steps, those that ONNX Runtime found before it, is compared in steps.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import onnx
import torch

import whet
from benchmarks.quantization import networks
from whet.measure.accuracy.graphs import cut_at, given_name, with_outputs
from whet.torch.export import export_qat
from whet.torch.fake import QatConfig, prepare_qat

Array = np.ndarray[Any, Any]
HEADER = (
    "| network | float | {bits} bits | trained on | recovered | ONNX Runtime, trained on "
    "| other steps | most steps apart |\n|---|---:|---:|---:|---:|---:|---:|---:|"
)


def accuracy(found: Array, labels: Array) -> float:
    """Return the share of images that results name right, in percent."""
    return 100 * float((found.argmax(axis=1) == labels).mean())


def code_names(model: onnx.ModelProto) -> list[str]:
    """Return the values that a QDQ model rounds to integers."""
    return [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]


def run_onnxruntime(model: onnx.ModelProto, images: Array) -> dict[str, Array]:
    """Return outputs and rounded values as ONNX Runtime computes them, node by node."""
    import onnxruntime as ort

    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        with_outputs(model, code_names(model)).SerializeToString(), plain, ["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": images}), strict=True))


def steps_apart(model: onnx.ModelProto, images: Array, right: dict[str, Array]) -> Array:
    """Return how many steps each rounded value is from the right one, all before it being right."""
    codes = code_names(model)
    feeds = {given_name(name): right[name] for name in codes}
    found = whet.compile(cut_at(model, codes, right))({"x": images, **feeds})
    away = [np.abs(found[n].astype(np.int32) - right[n].astype(np.int32)).ravel() for n in codes]
    return np.concatenate(away)


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
        peer = run_onnxruntime(trained, test)
        away = steps_apart(trained, test, peer)
        recovered = (top[2] - top[1]) / (top[0] - top[1]) if top[0] > top[1] else 1.0
        print(
            f"| {name} | {top[0]:.3f} | {top[1]:.3f} | {top[2]:.3f} | {recovered:.0%} "
            f"| {accuracy(peer['y'], names):.3f} | {(away > 0).mean():.3%} | {away.max()} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
