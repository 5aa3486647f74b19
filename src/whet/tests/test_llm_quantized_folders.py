"""Folders of GPTQ, AWQ and compressed-tensors: every number bit for bit, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from whet.errors import ModelError, UnsupportedError
from whet.kernel.block_formats import FORMATS, dequantized
from whet.llm import LLM, SamplingParams, Source
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.source import Weights
from whet.options import Options
from whet.tests.tiny_models import write_checkpoint

OPTIONS = Options(threads=2)
_TYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "int64": "I64",
    "int8": "I8",
}
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which column the nibbles of a word hold, the lowest first."""


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack unsigned numbers along the last axis, bit by bit in Python's integers."""
    rows = []
    for row in values.reshape(-1, values.shape[-1]):
        whole = sum(int(v) << (bits * k) for k, v in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append([(whole >> (32 * k)) & 0xFFFFFFFF for k in range(count)])
    words: np.ndarray = np.array(rows, np.uint32).view(np.int32)
    shaped: np.ndarray = np.reshape(words, (*values.shape[:-1], words.shape[-1]))
    return shaped


@dataclass(frozen=True)
class Case:
    """One way to store a matrix.

    Attributes:
        config: what ``quantization_config`` holds.
        write: gives the tensors of a layer, and its weights in float32, from random numbers.
        kind: the format that it comes to, ``None`` for floats.
    """

    config: dict[str, Any]
    write: Callable[[np.random.Generator, int, int], tuple[dict[str, np.ndarray], np.ndarray]]
    kind: str | None


def expected(codes: np.ndarray, zeros: Any, scales: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the weights, each one a product in float32."""
    wide = zeros if np.ndim(zeros) == 0 else zeros[:, groups]
    values: np.ndarray = (codes.astype(np.int64) - wide).astype(np.float32)
    wide_scales: np.ndarray = scales.astype(np.float32)[:, groups]
    return np.asarray(values * wide_scales)


def numbers(
    rng: np.random.Generator, shape: tuple[int, int], bits: int, group: int, shuffled: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, zeros, scales and groups."""
    columns, depth = shape
    groups = np.arange(depth) // group
    count = int(groups[-1]) + 1
    codes = rng.integers(0, 1 << bits, shape)
    zeros = rng.integers(1, 1 << bits, (columns, count))
    scales = rng.uniform(0.001, 0.02, (columns, count)).astype(np.float16)
    return codes, zeros, scales, rng.permutation(groups) if shuffled else groups


def gptq(bits: int, group: int, *, sym: bool, shuffled: bool = False, version: int = 1) -> Any:
    def write(rng: np.random.Generator, columns: int, depth: int) -> Any:
        codes, zeros, scales, groups = numbers(rng, (columns, depth), bits, group, shuffled)
        zeros = np.full_like(zeros, 1 << (bits - 1)) if sym else zeros
        tensors = {
            "qweight": np.ascontiguousarray(packed(codes, bits).T),
            "qzeros": packed((zeros - (version == 1)).T, bits),
            "scales": np.ascontiguousarray(scales.T),
            "g_idx": groups.astype(np.int32),
        }
        return tensors, expected(codes, zeros, scales, groups)

    return write


def awq(rng: np.random.Generator, columns: int, depth: int) -> Any:
    codes, zeros, scales, groups = numbers(rng, (columns, depth), 4, 32, False)

    def words(rows: np.ndarray) -> np.ndarray:
        mixed = rows.reshape(len(rows), -1, 8)[..., list(AWQ_COLUMNS)]
        return packed(mixed.reshape(len(rows), -1), 4)

    tensors = {
        "qweight": words(codes.T),
        "qzeros": words(zeros.T),
        "scales": np.ascontiguousarray(scales.T),
    }
    return tensors, expected(codes, zeros, scales, groups)


def compressed(bits: int, group: int, *, sym: bool, shuffled: bool = False) -> Any:
    def write(rng: np.random.Generator, columns: int, depth: int) -> Any:
        codes, zeros, scales, groups = numbers(rng, (columns, depth), bits, group, shuffled)
        zeros = np.full_like(zeros, 1 << (bits - 1)) if sym else zeros
        scales = scales.astype(ml_dtypes.bfloat16)
        tensors = {
            "weight_packed": packed(codes, bits),
            "weight_scale": scales,
            "weight_shape": np.array([columns, depth], np.int64),
        }
        if not sym:
            tensors["weight_zero_point"] = np.ascontiguousarray(packed(zeros.T, bits).T)
        if shuffled:
            tensors["weight_g_idx"] = groups.astype(np.int32)
        return tensors, expected(codes, zeros, scales, groups)

    return write


def signed_bytes(scale_type: Any) -> Any:
    def write(rng: np.random.Generator, columns: int, depth: int) -> Any:
        codes = rng.integers(-128, 128, (columns, depth)).astype(np.int8)
        scales = rng.uniform(0.0001, 0.001, (columns, 1)).astype(scale_type)
        tensors = {"weight": codes, "weight_scale": scales}
        return tensors, expected(codes, 0, scales, np.zeros(depth, int))

    return write


def gptq_config(bits: int, group: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, **more}


def scheme(form: str, bits: Any, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


GROUPED = {"strategy": "group", "group_size": 32}
PACKED = "pack-quantized"
CASES: dict[str, Case] = {
    "gptq4": Case(gptq_config(4, 32, sym=True), gptq(4, 32, sym=True), "Q4_0"),
    "gptq4 zeros": Case(gptq_config(4, 32, sym=False), gptq(4, 32, sym=False), "Q8_0"),
    "gptq4 order": Case(
        gptq_config(4, 32, desc_act=True), gptq(4, 32, sym=True, shuffled=True), "Q4_0"
    ),
    "gptq4 columns": Case(gptq_config(4, -1), gptq(4, 1 << 20, sym=True), "Q4_0"),
    "gptq4 v2": Case(
        gptq_config(4, 32, checkpoint_format="gptq_v2"), gptq(4, 32, sym=False, version=2), "Q8_0"
    ),
    "gptq8": Case(gptq_config(8, 32), gptq(8, 32, sym=True), "Q8_0"),
    "gptq8 zeros": Case(gptq_config(8, 32), gptq(8, 32, sym=False), None),
    "gptq3": Case(gptq_config(3, 32), gptq(3, 32, sym=True), "Q4_0"),
    "gptq2 small": Case(gptq_config(2, 16), gptq(2, 16, sym=True), None),
    "awq": Case({"quant_method": "awq", "bits": 4, "group_size": 32}, awq, "Q8_0"),
    "packed4": Case(scheme(PACKED, 4, **GROUPED), compressed(4, 32, sym=True), "Q4_0"),
    "packed4 zeros": Case(
        scheme(PACKED, 4, symmetric=False, **GROUPED), compressed(4, 32, sym=False), "Q8_0"
    ),
    "packed4 order": Case(
        scheme(PACKED, 4, actorder="group", **GROUPED),
        compressed(4, 32, sym=True, shuffled=True),
        "Q4_0",
    ),
    "packed8": Case(
        scheme(PACKED, 8, strategy="channel"), compressed(8, 1 << 20, sym=True), "Q8_0"
    ),
    "bytes": Case(
        scheme("int-quantized", 8, strategy="channel"), signed_bytes(ml_dtypes.bfloat16), "Q8_0"
    ),
    "bytes float32": Case(
        scheme("int-quantized", 8, strategy="channel"), signed_bytes(np.float32), None
    ),
}


def write_file(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, data = {}, b""
    for name, array in tensors.items():
        span = [len(data), len(data) + array.nbytes]
        kind = _TYPES[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": span}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def quantize(folder: Path, case: Case, seed: int = 5) -> dict[str, np.ndarray]:
    """Quantise the matrices of a checkpoint's layers; return what their weights are now."""
    plain, rng = TensorFolder(folder), np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    wanted: dict[str, np.ndarray] = {}
    for name in plain.names:
        if not name.endswith("proj.weight"):
            tensors[name] = plain.tensor(name).copy()
            continue
        layer, floats = case.write(rng, *plain.shape(name))
        prefix = name.removesuffix("weight")
        tensors |= {prefix + part: array for part, array in layer.items()}
        wanted[name] = floats
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": case.config}))
    write_file(folder / "model.safetensors", tensors)
    return wanted


@pytest.mark.parametrize("name", CASES)
def test_every_weight_is_the_one_that_was_stored(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    names = set(TensorFolder(write_checkpoint(tmp_path, "llama")).names)
    wanted = quantize(tmp_path, case)
    folder = TensorFolder(tmp_path)
    assert set(folder.names) == names
    for tensor, floats in wanted.items():
        assert folder.shape(tensor) == floats.shape
        assert np.array_equal(folder.tensor(tensor), floats)
        depth = floats.shape[1]
        kind = case.kind if depth % 32 == 0 else None  # 112 places do not divide into blocks
        assert folder.block_format(tensor) == kind, tensor
        if kind is not None:
            order = folder.order(tensor)
            assert (order is None) == ("order" not in name)
            again = dequantized(FORMATS[kind], folder.blocks(tensor))
            assert np.array_equal(again, floats if order is None else floats[:, order])
    assert TensorFolder(tmp_path, floats=True).block_format(next(iter(wanted))) is None


@pytest.mark.parametrize("name", ["gptq4 order", "awq"])
def test_a_quantised_folder_says_what_its_floats_say(name: str, tmp_path: Path) -> None:
    quantize(write_checkpoint(tmp_path, "llama"), CASES[name])
    prompt = [[3, 17, 99, 4, 5, 6]]
    said = []
    both_ways: tuple[Weights, ...] = ("stored", "float32")
    for weights in both_ways:
        llm = LLM(Source(tmp_path, weights), options=OPTIONS)
        params = SamplingParams(max_tokens=1, logprobs=64)
        (completion,) = llm.generate(prompt, params)
        assert completion.logprobs is not None
        said.append(completion.logprobs[0])
    both = said[0].keys() & said[1].keys()
    assert len(both) > 55
    gaps = [abs(said[0][t] - said[1][t]) for t in both]
    assert 0 < max(gaps) < 0.1  # rows are 8-bit integers where weights are in blocks


def test_the_library_packs_alike() -> None:
    library = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    torch = pytest.importorskip("torch")
    for bits in (3, 4, 8):
        codes = np.random.default_rng(bits).integers(0, 1 << bits, (5, 37))
        signed = torch.tensor(codes - (1 << (bits - 1)), dtype=torch.int8)
        theirs = library.pack_to_int32(signed, bits).numpy()
        assert np.array_equal(theirs, packed(codes, bits))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "fp8"),
        (gptq_config(5, 32), "5 bits"),
        (gptq_config(4, 32, checkpoint_format="marlin"), "marlin"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemv"),
        (scheme("float-quantized", 8, strategy="tensor"), "float-quantized"),
        (scheme(PACKED, 4, strategy="block"), "block"),
        (scheme(PACKED, "four", strategy="group"), "'four' bits"),
    ],
)
def test_other_methods_are_refused_by_name(
    config: dict[str, Any], named: str, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, "llama")
    facts = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**facts, "quantization_config": config}))
    with pytest.raises(UnsupportedError, match=named) as caught:
        TensorFolder(tmp_path)
    assert "GGUF" in str(caught.value.hint)


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales", "g_idx"])
def test_damaged_layers_are_named(part: str, tmp_path: Path) -> None:
    case = CASES["gptq4"]

    def write(rng: np.random.Generator, columns: int, depth: int) -> Any:
        tensors, floats = case.write(rng, columns, depth)
        bad = tensors[part]
        tensors[part] = bad[None] if part == "qweight" else bad[1:]
        if part == "g_idx":
            tensors[part] = bad + 50
        return tensors, floats

    quantize(write_checkpoint(tmp_path, "llama"), Case(case.config, write, None))
    with pytest.raises(ModelError, match=part) as caught:
        TensorFolder(tmp_path)
    assert "layers.0" in str(caught.value)
