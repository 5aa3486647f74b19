"""4-bit weights after training and trained on: ``python -m benchmarks.quantization.training``."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import onnx
import torch

import whet
from benchmarks.quantization import networks
from whet.torch.export import export_qat
from whet.torch.fake import QatConfig, prepare_qat

Array = np.ndarray[Any, Any]


def accuracy(model: onnx.ModelProto, images: Array, labels: Array) -> float:
    """Return the share of images that a model names right, in percent."""
    found = whet.compile(model)({"x": images})["y"]
    return 100 * float((found.argmax(axis=1) == labels).mean())


def main() -> None:
    """Train, quantise the weights to few bits, train on, and print top-1 of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8, help="of training on")
    given = parser.parse_args()
    images, labels = networks.digits()
    a, b = networks.TRAIN, networks.TRAIN + networks.CALIBRATE
    print(f"| network | float | {given.bits} bits | trained on |")
    print("|---|---:|---:|---:|")
    for name, build in (("resnet", networks.resnet), ("mobilenet", networks.mobilenet)):
        torch.manual_seed(1)
        net = build()
        networks.train(net, images[:a], labels[:a])
        model = networks.export(net, images[:2])
        whole = accuracy(model, images[b:], labels[b:])
        config = {"weights": f"int{given.bits}"}
        plain = whet.quantize(model, images[a:b], config=config).model
        fake = prepare_qat(net, QatConfig(weight_bits=given.bits, learned=True))
        networks.train(fake, images[:a], labels[:a], given.epochs, rate=4e-3)
        trained = export_qat(fake, torch.tensor(images[:2]))
        found = [accuracy(m, images[b:], labels[b:]) for m in (plain, trained)]
        print(f"| {name} | {whole:.3f} | {found[0]:.3f} | {found[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
