"""Models of images and text: references, the cache, batches, conversations, hostile images."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError, UnsupportedError, WhetError
from whet.llm import LLM, ImagePrompt, SamplingParams
from whet.llm.engine.program import Span
from whet.llm.images.images import MOST_PIXELS, image_of
from whet.llm.prompts import Prompt
from whet.options import Options
from whet.tests.tiny_models import VOCABULARY, write_checkpoint
from whet.tests.vision_models import (
    MARKER,
    NEW,
    PLACES,
    VISION,
    images,
    prompt,
    vision_golden,
    write_vision_golden,
)

pillow = pytest.importorskip("PIL.Image", reason="it resizes and decodes images")
OPTIONS = Options(threads=2)
GREEDY = SamplingParams(max_tokens=NEW, ignore_eos=True)


@pytest.fixture(scope="module", params=sorted(VISION))
def named(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, LLM]:
    """Return a model with its name."""
    found = vision_golden(request.param)
    folder = write_vision_golden(tmp_path_factory.mktemp(request.param), found)
    return request.param, LLM(folder, options=OPTIONS, cache_bytes=1 << 22)


def encoder_of(llm: LLM) -> Any:
    assert llm.prompts.encoder is not None, "the model takes images"
    return llm.prompts.encoder


def test_pixels_are_those_of_the_processor(named: tuple[str, LLM]) -> None:
    name, llm = named
    found = vision_golden(name)
    made = [encoder_of(llm).vision.prepare(i) for i in images(found.seed)]
    if name == "llava":
        ours = np.stack([m.inputs["pixels"] for m in made])
        wanted = found.pixels
    else:
        ours = np.concatenate([m.inputs["patches"] for m in made])
        frames = found.pixels.reshape(len(found.pixels), 3, 2, -1)
        assert np.array_equal(frames[:, :, 0], frames[:, :, 1])
        wanted = frames[:, :, 0].reshape(len(found.pixels), -1)
    assert np.abs(ours - wanted).max() < 1e-5


def test_logits_and_greedy_tokens(named: tuple[str, LLM]) -> None:
    name, llm = named
    found = vision_golden(name)
    given = llm.prompts.begin(ImagePrompt(prompt(found.seed), images(found.seed))).result()
    assert not isinstance(given, list)
    tokens = [*given.tokens, *found.tokens.tolist()][:-1]
    pages = list(range(len(tokens) // 32 + 1))
    logits = llm.program.run([Span(tokens, 0, pages, len(tokens), given.images)])
    error = np.abs(logits[list(PLACES)] - found.logits).max()
    assert error < 2e-5 * max(1.0, np.abs(found.logits).max())
    again = [page + 8 for page in pages]
    for start in range(0, len(tokens), 13):  # in chunks: equal bits
        part = tokens[start : start + 13]
        chunk = llm.program.run([Span(part, start, again, len(part), given.images)])
        assert np.array_equal(chunk, logits[start : start + 13])
    (said,) = llm.generate(ImagePrompt(prompt(found.seed), images(found.seed)), GREEDY)
    assert list(said.tokens) == found.tokens.tolist()


def test_one_content_is_encoded_once_and_sizes_together(named: tuple[str, LLM]) -> None:
    _, llm = named
    rng = np.random.default_rng()
    encoder = encoder_of(llm)
    many = [rng.integers(0, 256, (50, 60, 3), np.uint8) for _ in range(5)]
    gate, model = threading.Event(), encoder._model
    encoder._model = Gated(model, gate)
    try:
        first = encoder.submit(many[:1])
        deadline = time.monotonic() + 60
        while encoder._waiting and time.monotonic() < deadline:  # the first alone is running
            time.sleep(0.001)
        rest = encoder.submit([*many[1:], many[0], many[2]])
        before = encoder.batches
        gate.set()
        found = [future.result(timeout=60) for future in [*first, *rest]]
    finally:
        gate.set()
        encoder._model = model
    assert encoder.batches == before + 1  # four of one size, those that came twice once
    numbers = [one.number for one in found]
    assert numbers[5] == numbers[0] and numbers[6] == numbers[2] and len(set(numbers)) == 5
    for image, one in zip(many, found, strict=False):
        (alone,) = encoder.submit([image])
        assert np.array_equal(alone.result().features, one.features)


class Gated:
    """A model that waits until it may run."""

    def __init__(self, model: Any, gate: threading.Event) -> None:
        self.model, self.gate = model, gate

    def run(self, inputs: Any) -> Any:
        """Run it."""
        assert self.gate.wait(60)
        return self.model.run(inputs)


def test_pages_are_shared_between_equal_images_only(named: tuple[str, LLM]) -> None:
    _, llm = named
    rng = np.random.default_rng()
    one, other = (rng.integers(0, 256, (80, 84, 3), np.uint8) for _ in range(2))
    text = [*rng.integers(11, VOCABULARY, 40).tolist(), MARKER, 20, 21, MARKER, 22]
    few = SamplingParams(max_tokens=3, ignore_eos=True)
    (first,) = llm.generate(ImagePrompt(text, [one, one]), few)
    (again,) = llm.generate(ImagePrompt(text, [one, one]), few)
    (changed,) = llm.generate(ImagePrompt(text, [other, one]), few)
    assert again.tokens == first.tokens and again.cached_tokens >= 32
    assert changed.cached_tokens == 32  # the page of text in front of the images
    assert again.prompt_tokens == first.prompt_tokens > len(text)


def test_other_prompts_decode_while_an_image_is_encoded(named: tuple[str, LLM]) -> None:
    _, llm = named
    encoder, gate = encoder_of(llm), threading.Event()
    model, steps = encoder._model, llm.engine.steps
    encoder._model = Gated(model, gate)
    image = np.random.default_rng().integers(0, 256, (48, 48, 3), np.uint8)
    opener = threading.Thread(target=open_later, args=(llm, steps + 5, gate))
    opener.start()
    try:
        prompts: list[Prompt] = [ImagePrompt([3, MARKER, 4], [image]), [5, 6, 7]]
        seen, plain = llm.generate(prompts, SamplingParams(max_tokens=20, ignore_eos=True))
    finally:
        gate.set()
        encoder._model = model
        opener.join()
    assert len(seen.tokens) == len(plain.tokens) == 20
    (alone,) = llm.generate([5, 6, 7], SamplingParams(max_tokens=20, ignore_eos=True))
    assert alone.tokens == plain.tokens


def open_later(llm: LLM, steps: int, gate: threading.Event) -> None:
    """Let an image be encoded after so many steps, which text alone can have made."""
    deadline = time.monotonic() + 60
    while llm.engine.steps < steps and time.monotonic() < deadline:
        time.sleep(0.001)
    assert llm.engine.steps >= steps
    gate.set()


# -- images from outside ---------------------------------------------------------------------------


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    target = io.BytesIO()
    pillow.fromarray(image).save(target, kind)
    return target.getvalue()


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_images_come_in_many_forms(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    data = encoded(image)
    (tmp_path / "a.png").write_bytes(data)
    for given in (image, pillow.fromarray(image), data, tmp_path / "a.png", url(data)):
        assert np.array_equal(image_of(given), image)
    grey = pillow.fromarray(image[..., 0])
    assert np.array_equal(image_of(grey), np.repeat(image[..., :1], 3, 2))


def bomb(side: int) -> bytes:
    """Return a PNG of few bytes whose header promises a large square."""
    data = bytearray(encoded(np.zeros((4, 4, 3), np.uint8)))
    data[16:24] = side.to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def test_hostile_images_are_refused(tmp_path: Path) -> None:
    whole = encoded(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8))
    cases: list[tuple[object, str]] = [
        (bomb(60_000), "bomb"),
        (bomb(8_000), "8000 × 8000"),
        (whole[: len(whole) // 2], "cannot be decoded"),
        (b"", "cannot be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be decoded"),
        ("http://localhost/a.png", "nothing is fetched"),
        (str(tmp_path / "a.png"), "nothing is fetched"),
        ("data:image/png;base64,####", "base64"),
        ("data:image/png,abc", "base64"),
        (tmp_path / "none.png", "cannot be read"),
        (np.zeros((3, 4)), "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "pixels"),
        (12, "int"),
        (bytes(21 << 20), "20 MiB"),
    ]
    for given, text in cases:
        with pytest.raises(InputError, match=text) as caught:
            image_of(given)
        assert "Traceback" not in str(caught.value)
    assert MOST_PIXELS < 8_000**2


def test_damaged_images_never_crash() -> None:
    rng = np.random.default_rng(2)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        whole = encoded(rng.integers(0, 256, (24, 20, 3), np.uint8), kind)
        for _ in range(25):
            damaged = bytearray(whole)
            for _ in range(3):
                damaged[int(rng.integers(0, len(damaged)))] = int(rng.integers(0, 256))
            try:
                assert image_of(bytes(damaged)).shape[2] == 3
            except WhetError:
                continue


def test_prompts_and_images_have_to_fit(named: tuple[str, LLM], tmp_path: Path) -> None:
    _, llm = named
    image = np.zeros((40, 40, 3), np.uint8)
    for tokens, count, said in (
        ([3, 4], 1, "has 0 places for 1 image$"),
        ([3, MARKER, 4], 2, "has 1 place for 2 images$"),
        ([MARKER, MARKER], 1, "has 2 places for 1 image$"),
    ):
        with pytest.raises(InputError, match=f"(?m){said}"):
            llm.generate(ImagePrompt(tokens, [image] * count), GREEDY)
    with pytest.raises(InputError, match="differ too much"):
        llm.generate(ImagePrompt([MARKER], [np.zeros((2, 900, 3), np.uint8)]), GREEDY)
    with pytest.raises(InputError, match="context"):
        llm.generate(ImagePrompt([MARKER] * 40, [image] * 40), GREEDY)
    assert llm.generate([3, 4], SamplingParams(max_tokens=2, ignore_eos=True))
    text = LLM(write_checkpoint(tmp_path), options=OPTIONS)
    with pytest.raises(UnsupportedError, match="no images"):
        text.generate(ImagePrompt([3], [image]), GREEDY)


# -- conversations ---------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>"
    "{% else %}{{ p['text'] }}{% endif %} {% endfor %}{% endfor %}w9"
)


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """Return a LLaVA with a tokenizer of words and a chat template."""
    tokenizers = pytest.importorskip("tokenizers", reason="conversations need a tokenizer")
    folder = tmp_path_factory.mktemp("talker")
    write_vision_golden(folder, vision_golden("llava"))
    names = {("<image>" if k == MARKER else f"w{k}"): k for k in range(VOCABULARY)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="w0"))
    made.add_special_tokens(["<image>"])
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return LLM(folder, options=OPTIONS, cache_bytes=1 << 22)


def ask(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_a_conversation_with_an_image(talker: LLM) -> None:
    image = images(5)[0]
    few = SamplingParams(max_tokens=6, ignore_eos=True)
    by_hand = talker.generate(ImagePrompt([20, MARKER, 30, 9], [image]), few)[0]
    before, behind = ({"type": "text", "text": word} for word in ("w20", "w30"))
    for middle in (
        {"type": "image", "image": image},
        {"type": "image_url", "image_url": {"url": url(encoded(image))}},
    ):
        said = talker.chat(ask(before, middle, behind), few)
        assert said.tokens == by_hand.tokens
    plain = talker.chat([{"role": "user", "content": "w20 w30"}], few)
    assert plain.prompt_tokens == 3
    with pytest.raises(InputError, match="has 1 place for 0 images"):
        talker.chat([{"role": "user", "content": "an <image> that is none"}], few)
    with pytest.raises(InputError, match="'video'"):
        talker.chat(ask({"type": "video"}), few)


def test_the_server_takes_images_and_lives_on(talker: LLM) -> None:
    pytest.importorskip("httpx", reason="the client of tests stands on it")
    testclient = pytest.importorskip("starlette.testclient", reason="it asks the server")
    pytest.importorskip("prometheus_client", reason="the server counts with it")
    from whet.serve.app import application
    from whet.serve.front import Settings

    whole = encoded(images(5)[0])
    app = application(talker, Settings("talker", body_bytes=1 << 20))
    with testclient.TestClient(app) as client:

        def status(*parts: dict[str, Any]) -> tuple[int, Any]:
            body = {"messages": ask(*parts), "max_tokens": 5, "temperature": 0, "ignore_eos": True}
            answer = client.post("/v1/chat/completions", json=body)
            return answer.status_code, answer.json()

        def image(where: str) -> dict[str, Any]:
            return {"type": "image_url", "image_url": {"url": where}}

        good = status({"type": "text", "text": "w20"}, image(url(whole)))
        assert good[0] == 200 and good[1]["usage"]["prompt_tokens"] == 11
        for bad, text in (
            (image("https://localhost/a.png"), "nothing is fetched"),
            (image("/etc/hostname"), "nothing is fetched"),
            ({"type": "image", "image": "/etc/hostname"}, "nothing is fetched"),
            (image(url(bomb(8_000))), "pixels"),
            (image(url(whole[:80])), "cannot be decoded"),
            ({"type": "image_url"}, "misses what it is of"),
        ):
            code, answer = status(bad)
            assert code == 400 and text in answer["error"]["message"], answer
        again = status({"type": "text", "text": "w20"}, image(url(whole)))
        assert again[0] == 200 and again[1]["choices"] == good[1]["choices"]
