"""Steps that the host computes: texts to numbers and back, tables of labels, images."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import whet
from whet.errors import InputError, UnsupportedError
from whet.program.placement import Place, placements
from whet.program.script import Call
from whet.runtime.model import CompiledModel
from whet.runtime.texts import tfidf
from whet.tests.seeds import seeds_of_models

Array = np.ndarray[Any, np.dtype[Any]]
HEAD = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 4]>\n'
KINDS = {"float": 1, "double": 11, "int64": 7, "int8": 3, "float16": 10}


def compiled(text: str, **options: Any) -> CompiledModel:
    model = onnx.parser.parse_model(HEAD + text)
    return whet.compile(model, options=whet.Options(**{"threads": 1, **options}))


def fresh() -> np.random.Generator:
    return np.random.default_rng(next(seeds_of_models(1)))


def texts(*values: str) -> Array:
    return np.array(values, object)


# -- conversion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_become_texts_and_numbers_again(kind: str) -> None:
    model = compiled(
        f"""g ({kind}[n,3] x) => (string[n,3] t, {kind}[n,3] y) {{
        t = Cast<to=8>(x) y = Cast<to={KINDS[kind]}>(t) }}"""
    )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(KINDS[kind])
    x = (fresh().standard_normal((7, 3)) * 40).astype(dtype)
    found = model({"x": x})
    assert np.array_equal(found["y"], x)
    assert all(isinstance(t, str) and "e" not in t for t in found["t"].reshape(-1))


def test_what_texts_spell() -> None:
    model = compiled("g (string[n] x) => (float[n] y) { z = Cast<to=1>(x) y = Neg(z) }")
    given = texts("3.14", "1e-5", "1E8", "+INF", "-inf", " 7 ")
    wanted = -np.array([3.14, 1e-5, 1e8, np.inf, -np.inf, 7], np.float32)
    assert np.array_equal(model({"x": given})["y"], wanted)
    assert np.isnan(model({"x": texts("NaN")})["y"]).all()
    for wrong in ("", "one", "1_000", "0x10"):
        with pytest.raises(InputError, match="is no number"):
            model({"x": texts(wrong)})
    narrow = compiled("g (string[n] x) => (int8[n] y) { y = Cast<to=3>(x) }")
    assert narrow({"x": texts("100.5", "-128")})["y"].tolist() == [100, -128]
    with pytest.raises(InputError, match="is no number of type int8"):
        narrow({"x": texts("128")})


def test_special_numbers_as_texts() -> None:
    model = compiled("g (float[n] x) => (string[n] y) { y = Cast<to=8>(x) }")
    x = np.array([np.nan, np.inf, -np.inf, 314.15926, 0.1, 2, -0.0], np.float32)
    wanted = ["NaN", "INF", "-INF", "314.15927", "0.1", "2", "-0"]
    assert model({"x": x})["y"].tolist() == wanted


# -- labels ----------------------------------------------------------------------------------------


def test_labels_of_texts() -> None:
    model = compiled(
        """g (string[n,m] x) => (int64[n,m] y, string[n,m] z) {
        y = ai.onnx.ml.LabelEncoder<keys_strings=["a", "b", "a"], values_int64s=[1, 2, 3]>(x)
        z = ai.onnx.ml.LabelEncoder<keys_strings=["a", "é"], values_strings=["A", "É"]>(x) }"""
    )
    found = model({"x": np.array([["a", "b"], ["é", ""]], object)})
    assert found["y"].tolist() == [[3, 2], [-1, -1]]
    assert found["z"].tolist() == [["A", "_Unused"], ["É", "_Unused"]]


def test_labels_that_are_texts() -> None:
    model = compiled(
        """g (int64[n] i, float[n] f) => (string[n] y, string[n] z) {
        y = ai.onnx.ml.LabelEncoder<keys_int64s=[5, 7], values_strings=["five", "seven"],
            default_string="?">(i)
        z = ai.onnx.ml.LabelEncoder<keys_floats=[0.5, nan], values_strings=["half", "none"]>(f) }"""
    )
    found = model({"i": np.array([7, 6, 5]), "f": np.array([np.nan, 0.5, 1], np.float32)})
    assert found["y"].tolist() == ["seven", "?", "five"]
    assert found["z"].tolist() == ["none", "half", "_Unused"]


def test_labels_of_another_type_than_the_input_are_refused() -> None:
    text = """g (int64[n] x) => (int64[n] y) {
        y = ai.onnx.ml.LabelEncoder<keys_strings=["a"], values_int64s=[1]>(x) }"""
    with pytest.raises(UnsupportedError, match="another type than the input"):
        compiled(text)


# -- images ----------------------------------------------------------------------------------------


def decoder(layout: str, **options: Any) -> CompiledModel:
    return compiled(
        f"""g (uint8[n] x) => (uint8[h,w,c] y) {{
        y = ImageDecoder<pixel_format="{layout}">(x) }}""",
        **options,
    )


def encoded(pixels: Array, form: str) -> Array:
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.fromarray(pixels).save(stream, format=form)
    return np.frombuffer(stream.getvalue(), np.uint8)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_images_are_decoded_as_they_were(form: str) -> None:
    pixels = fresh().integers(0, 256, (5, 7, 3)).astype(np.uint8)
    data = encoded(pixels, form)
    assert np.array_equal(decoder("RGB")({"x": data})["y"], pixels)
    assert np.array_equal(decoder("BGR")({"x": data})["y"], pixels[:, :, ::-1])
    assert decoder("Grayscale")({"x": data})["y"].shape == (5, 7, 1)


def test_decoded_images_go_on_in_native_code() -> None:
    model = compiled(
        """g (uint8[n] x) => (float[c] y) {
        p = ImageDecoder(x) f = Cast<to=1>(p) axes = Constant<value_ints=[0, 1]>()
        y = ReduceMean<keepdims=0>(f, axes) }"""
    )
    pixels = fresh().integers(0, 256, (3, 9, 3)).astype(np.uint8)
    found = model({"x": encoded(pixels, "PNG")})["y"]
    np.testing.assert_allclose(found, pixels.astype(np.float64).mean((0, 1)), rtol=1e-6)
    places = {p.place for p in placements(model.program)}
    assert places >= {Place.HOST, Place.NATIVE}


def test_what_is_no_image_gives_an_empty_one() -> None:
    whole = encoded(fresh().integers(0, 256, (5, 7, 3)).astype(np.uint8), "PNG")
    model = decoder("RGB")
    for data in (whole[:0], whole[:40], np.zeros(100, np.uint8), whole[::-1].copy()):
        assert model({"x": data})["y"].shape == (0, 0, 3)


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    data = encoded(np.zeros((40, 40, 3), np.uint8), "PNG")
    model = decoder("RGB")
    for most in (100, 1000):
        monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(InputError, match="too many pixels"):
            model({"x": data})


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder("RGB")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match="not installed"):
        model({"x": np.zeros(4, np.uint8)})


def test_without_host_ops() -> None:
    with pytest.raises(UnsupportedError, match="ImageDecoder"):
        decoder("RGB", host_ops=False)


@pytest.mark.parametrize("places", [(0, 1), (0, 1, -2)])
def test_groups_of_words_without_a_place(places: tuple[int, ...]) -> None:
    counts = (("ngram_counts", (0,)), ("ngram_indexes", places))
    step = Call(
        "TfIdfVectorizer", (0,), (1,), (("mode", "TF"), ("pool_int64s", (4, 5, 6)), *counts), "t"
    )
    with pytest.raises(whet.ShapeError, match="3 groups of words"):
        tfidf(step, [np.array([4, 5])])
