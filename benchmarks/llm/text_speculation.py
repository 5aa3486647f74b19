"""What guessed tokens bring in real text: unseen Python source, continued by a model trained on it.

    python -m benchmarks.llm.text_llama FOLDER
    python -m benchmarks.llm.text_speculation FOLDER

Prompts are pieces of modules that the model has not seen. Each is continued without guesses, with
guesses from the text so far, and with guesses of the smaller model, in turns, call by call; tokens
have to be the same. Printed are the median of the times' ratios, each side's best rate, how many
guessed tokens were right, and tokens a step.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import get_args

from whet import Options
from whet.llm import LLM, SamplingParams, Source
from whet.llm.engine.engine import Engine
from whet.llm.source import Weights


@dataclass(slots=True)
class Side:
    """What one way of guessing did: seconds of each call, tokens, steps, guesses."""

    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    steps: int = 0
    guessed: int = 0
    right: int = 0


def continued(llm: LLM, prompt: list[int], params: SamplingParams, side: Side) -> tuple[int, ...]:
    """Continue a prompt, note what it took, and return the tokens."""
    engine: Engine = llm.engine
    before, steps = time.perf_counter(), engine.steps
    (found,) = llm.generate([prompt], params)
    side.seconds.append(time.perf_counter() - before)
    side.steps += engine.steps - steps
    side.tokens += len(found.tokens)
    if engine.speculation is not None:
        side.guessed += engine.speculation.guessed
        side.right += engine.speculation.accepted
    return found.tokens


def measure(llm: LLM, small: LLM, prompts: list[list[int]], params: SamplingParams) -> None:
    """Continue every prompt in all ways, and print what each brought."""
    sides = {"none": Side(), "prompt": Side(), "draft": Side()}
    for prompt in prompts:
        llm.engine.speculate(None)
        llm.generate([prompt], SamplingParams(max_tokens=1))  # the prompt is in the cache for all
        found = {}
        for name, side in sides.items():
            if name == "none":
                llm.engine.speculate(None)
            else:
                llm.speculate(None if name == "prompt" else small)
            found[name] = continued(llm, prompt, params, side)
        assert len(set(found.values())) == 1, "guesses change no token"
    plain = sides["none"]
    kinds = len({t for s in [found["none"]] for t in s})
    print(f"temperature {params.temperature:g}: {plain.tokens} tokens (last text: {kinds} kinds)")
    for name, side in sides.items():
        ratios = [a / b for a, b in zip(plain.seconds, side.seconds, strict=True)]
        best = params.max_tokens / min(side.seconds)
        right = f"{side.right / side.guessed:5.0%} right" if side.guessed else "           "
        print(
            f"  {name:7} {median(ratios):5.2f} times as fast (best {best:6.1f} tokens/s) "
            f"{right}, {side.tokens / side.steps:.2f} tokens a step"
        )


def main() -> None:
    """Measure greedy and drawn continuations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=400)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--weights", default="float32", help="of the large model: float32, int8 …")
    given = parser.parse_args()
    options, weights = Options(threads=2), given.weights
    assert weights in get_args(Weights)
    llm = LLM(Source(given.folder / "model", weights, keep_from=0), options=options, context=1024)
    small = LLM(Source(given.folder / "draft", keep_from=0), options=options, context=1024)
    tokens = llm.encode((given.folder / "unseen.txt").read_text())
    places = range(0, len(tokens) - given.prompt_tokens, len(tokens) // given.prompts)
    prompts = [tokens[p : p + given.prompt_tokens] for p in places][: given.prompts]
    for temperature in (0.0, 0.8):
        params = SamplingParams(
            max_tokens=given.new_tokens, ignore_eos=True, temperature=temperature, seed=1
        )
        measure(llm, small, prompts, params)


if __name__ == "__main__":
    main()
