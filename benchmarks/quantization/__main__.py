"""Train, quantise without settings, compare: ``python -m benchmarks.quantization``."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
import onnx
import torch

import whet
from benchmarks.quantization import networks, sentences

Array = np.ndarray[Any, Any]


def _accuracy(model: onnx.ModelProto, images: Array, labels: Array) -> float:
    found = whet.compile(model)({"x": images})["y"]
    return 100 * float((found.argmax(axis=1) == labels).mean())


def _row(name: str, how: str, figures: tuple[float, float], report: Any, seconds: float) -> str:
    share = report.bytes_after / report.bytes_before
    floats = len(report.floats)
    return (
        f"| {name} | {how} | {figures[0]:.3f} | {figures[1]:.3f} | {figures[0] - figures[1]:+.3f} "
        f"| {floats} of {floats + len(report.quantized)} | {share:.0%} | {seconds:.1f} |"
    )


def print_digits(seed: int) -> None:
    """Print the rows of the networks trained on digits, from other weights for each seed."""
    images, labels = networks.digits()
    a, b = networks.TRAIN, networks.TRAIN + networks.CALIBRATE
    for name, build in (("resnet", networks.resnet), ("mobilenet", networks.mobilenet),
                        ("hostile", networks.resnet)):  # fmt: skip
        torch.manual_seed(seed)
        net = build()
        networks.train(net, images[:a], labels[:a], seed=seed)
        ways: tuple[tuple[str, dict[str, Any]], ...] = (("no settings", {}),)
        if name == "hostile":
            networks.make_hostile(net)
            plain = {"config": {"calibrator": "minmax"}}
            pairs = (images[a:b], labels[a:b])
            target = {**plain, "max_drop": "0.5%", "evaluation": pairs}
            ways = (("minmax", plain), ("minmax, --max-drop 0.5%", target))
        model = networks.export(net, images[:2])
        before = _accuracy(model, images[b:], labels[b:])
        for how, more in ways:
            start = time.perf_counter()
            made = whet.quantize(model, images[a:b], **more)
            seconds = time.perf_counter() - start
            after = _accuracy(made.model, images[b:], labels[b:])
            print(_row(name, how, (before, after), made.report, seconds), flush=True)


def print_sentences() -> None:
    """Print the row of the sentence encoder."""
    texts = sentences.sentences()
    model = sentences.export()
    feeds = sentences.encoded(texts[:64])
    test = sentences.encoded(texts[64:])
    golden = whet.compile(model)(test)["y"]
    start = time.perf_counter()
    made = whet.quantize(model, feeds)
    seconds = time.perf_counter() - start
    found = whet.compile(made.model)(test)["y"]
    figures = (1.0, sentences.ranking_correlation(found, golden))
    print(_row("minilm", "no settings", figures, made.report, seconds), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("digits", "sentences"))
    parser.add_argument("--seed", type=int, default=1, help="weights that training starts from")
    given = parser.parse_args()
    only = given.only
    print("| network | how | float | quantised | drop | layers in float | weights | seconds |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    if only != "sentences":
        print_digits(given.seed)
    if only != "digits":
        if sentences.available():
            print_sentences()
        else:
            print(f"no sentences: pip install {sentences.NAME} transformers", file=sys.stderr)


if __name__ == "__main__":
    main()
