"""Training for integers: gradients, what is exported, and that training recovers accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import whet
from whet.errors import InputError, OptionError, UnsupportedError
from whet.tests.quantized_models import digits

torch = pytest.importorskip("torch")

from whet.torch.export import export_qat  # noqa: E402 - needs torch
from whet.torch.fake import (  # noqa: E402 - needs torch
    FakeWeight,
    QatConfig,
    fake_layers,
    prepare_qat,
    round_through,
)


def small_net() -> Any:
    nn = torch.nn
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10),
    )  # fmt: skip


def train(net: Any, images: Any, labels: Any, steps: int, rate: float) -> None:
    x, y = torch.tensor(images), torch.tensor(labels)
    optimiser = torch.optim.Adam(net.parameters(), rate)
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,), generator=generator)
        loss: Any = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()


def test_rounding_passes_gradients() -> None:
    x = torch.tensor([0.2, 1.7], requires_grad=True)
    y: Any = round_through(x)
    assert y.tolist() == [0.0, 2.0]
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("bits", "learned"), [(4, False), (8, True)])
def test_the_export_computes_what_was_trained(bits: int, learned: bool) -> None:
    images, labels = digits()
    net = small_net()
    train(net, images[:500], labels[:500], 20, 3e-3)
    net = prepare_qat(net, QatConfig(weight_bits=bits, learned=learned))
    assert len(fake_layers(net)) == 3
    before = [p.detach().clone() for p in net.parameters()]
    train(net, images[:500], labels[:500], 5, 1e-3)
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    x = images[500:540]
    with torch.no_grad():
        right = net(torch.tensor(x)).numpy()
    model = export_qat(net, torch.tensor(images[:2]))
    kinds = {t.data_type for t in model.graph.initializer if t.name.endswith("_q")}
    assert len(kinds & {22 if bits == 4 else 3}) == 1  # INT4 or INT8
    found = whet.compile(model)({"x": x})["y"]
    # ties and biases in int32 aside, both compute the same numbers
    assert np.linalg.norm(found - right) < 0.01 * np.linalg.norm(right)


@pytest.mark.slow
def test_training_recovers_what_two_bits_lose() -> None:
    images, labels = digits()
    net = small_net()
    train(net, images[:1200], labels[:1200], 300, 3e-3)
    with torch.no_grad():
        named = net(torch.tensor(images[1200:])).numpy().argmax(axis=1)
    whole = float((named == labels[1200:]).mean())

    def accuracy(model: Any) -> float:
        found = whet.compile(model)({"x": images[1200:]})["y"]
        return float((found.argmax(axis=1) == labels[1200:]).mean())

    net = prepare_qat(net, QatConfig(weight_bits=2, learned=True))
    with torch.no_grad():
        net.train()(torch.tensor(images[:200]))
        floats = net.eval()(torch.tensor(images[:2]))
    assert floats.shape == (2, 10)
    plain = accuracy(export_qat(net, torch.tensor(images[:2])))
    train(net, images[:1200], labels[:1200], 200, 3e-3)
    trained = accuracy(export_qat(net, torch.tensor(images[:2])))
    assert whole - plain > 0.05
    assert trained - plain >= 0.7 * (whole - plain)


def test_learned_scales_begin_with_the_least_error() -> None:
    """A channel with one large weight is clipped, one with equal weights is not."""
    weight = torch.full((2, 101), 1.0)
    weight[0], weight[0, 0] = torch.linspace(-1, 1, 101), 1.9
    start = FakeWeight(weight, 4, learned=True)
    widest = weight.abs().amax(dim=1) / 7
    scale = start.current(weight).detach()
    assert 0.5 * widest[0] <= scale[0] < widest[0] and scale[1] == widest[1]
    observed = FakeWeight(weight, 4, learned=False)
    errors = [(f(weight) - weight).square().sum(dim=1) for f in (start, observed)]
    assert (errors[0] <= errors[1]).all() and errors[0][0] < errors[1][0]


def test_a_norm_that_is_folded_later_is_refused() -> None:
    conv = prepare_qat(torch.nn.Conv2d(1, 4, 3))
    net = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(4))
    net.train()(torch.rand(4, 1, 8, 8))
    with pytest.raises(UnsupportedError, match="not in the exported graph"):
        export_qat(net.eval(), torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize(
    "wrong", [{"weight_bits": 3}, {"weight_bits": "4"}, {"activation_bits": 4}]
)
def test_grids_that_cannot_be_written_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(OptionError, match=f"{name} is .* at {name}\n  hint: give"):
        QatConfig(**wrong)


def test_modules_that_were_not_trained_are_refused() -> None:
    example = torch.zeros(2, 1, 8, 8)
    with pytest.raises(UnsupportedError, match="no Conv2d and no Linear"):
        prepare_qat(torch.nn.Sequential(torch.nn.ReLU()))
    with pytest.raises(UnsupportedError, match="no layer was trained for integers"):
        export_qat(small_net(), example)
    net = prepare_qat(small_net())
    net.eval()
    net(example)
    with pytest.raises(InputError, match=r"the layer saw no data in training.* at 0"):
        export_qat(net, example)
    net.train()
    net(example + float("nan"))
    with pytest.raises(InputError, match="NaN or infinite at 0"):
        export_qat(net.eval(), example)
