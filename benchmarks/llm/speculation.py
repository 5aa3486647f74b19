"""What guessed tokens bring where a text repeats itself, and that they change no token.

    python -m benchmarks.llm.speculation model.gguf [--draft smaller.gguf]

A model of random weights says nothing that repeats, so a bias makes one token the next at every
place: all guesses are right. That is the best case, what a step of several tokens costs beside as
many steps of one; how often guesses are right in a text is the text's affair.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import whet
from whet.llm import LLM, SamplingParams


def run(llm: LLM, prompt: list[int], params: SamplingParams) -> tuple[float, int, tuple[int, ...]]:
    """Return seconds and steps of the new tokens, and the tokens."""
    before, steps = time.perf_counter(), llm.engine.steps
    completion = llm.generate([prompt], params)[0]
    return time.perf_counter() - before, llm.engine.steps - steps, completion.tokens


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--draft", help="a smaller model that guesses")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    llm = LLM(given.model, context=512, options=whet.Options(threads=2))
    prompt = np.random.default_rng(0).integers(5, llm.architecture.vocabulary, 32).tolist()
    bias = {prompt[-1]: 1e4}
    params = SamplingParams(max_tokens=given.new_tokens, ignore_eos=True, logit_bias=bias)
    kinds: dict[str, str | None] = {"prompt": None}
    if given.draft:
        kinds["draft"] = given.draft
    for name, draft in kinds.items():
        best: dict[bool, tuple[float, int, tuple[int, ...]]] = {}
        for _ in range(given.rounds):
            for guess in (False, True):
                if guess:
                    llm.speculate(draft)
                else:
                    llm.engine.speculate(None)
                found = run(llm, prompt, params)
                best[guess] = min(found, best.get(guess, found))
        plain, fast = best[False], best[True]
        assert plain[2] == fast[2], "guesses change no token"
        print(f"{name}: {plain[0]:.2f} s in {plain[1]} steps, guessed {fast[0]:.2f} s in {fast[1]}"
              f" steps: {plain[0] / fast[0]:.2f} times as fast, the same tokens")  # fmt: skip


if __name__ == "__main__":
    main()
