"""Finding faster schedules: each trial gives every product of a model another one, and times both.

Launches are timed where they run, in the model, so that caches are as they will be. A trial changes
all products at once, since their launches are timed one by one: a model takes about as many trials
as its products have schedules worth trying, not as many as there are products times schedules.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from whet.driver import Shapes, ask_schedules
from whet.driver import compile as compile_model
from whet.errors import WhetError
from whet.kernel.schedules import Answer, Question
from whet.kernel.tuning import Entry, Tuning
from whet.measure.runner import Inputs
from whet.options import Options
from whet.runtime.model import CompiledModel
from whet.tune.candidates import candidates
from whet.tune.trial import Nodes, Race

Save = Callable[[Tuning], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tuned.

    Attributes:
        model: the ONNX file.
        shapes: shapes by input name.
        options: how it is compiled; its tuning file is not looked at.
        inputs: one feed.
    """

    model: Path
    shapes: Shapes | None
    options: Options
    inputs: Inputs


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that a model asks.

    Attributes:
        question: the question.
        answer: the answer that it gets now.
        nodes: the nodes of all kernels that ask it.
    """

    question: Question
    answer: Answer
    nodes: tuple[Nodes, ...]


def tune(
    subject: Subject, known: Tuning, *, seconds: float, save: Save, progress: Progress | None = None
) -> Tuning:
    """Try schedules until none is left that is worth trying, or the time is over.

    Args:
        subject: what is tuned.
        known: what was found before; nothing is tried twice.
        seconds: no trial begins after this time.
        save: called with all that is known after each trial, so that it can be interrupted.
        progress: called as ``progress("schedules", finished, total)``.

    Raises:
        WhetError: the model cannot be compiled.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="whet-tune-") as folder:
        bench = _Bench(subject, Path(folder) / "tuning.json")
        while time.perf_counter() - started < seconds:
            asked = bench.ask(known)
            choices = _next_choices(asked, known)
            if progress is not None:
                finished = sum(not _left(each, known) for each in asked)
                progress("schedules", finished, len(asked))
            if not choices:
                break
            known = bench.attempt(asked, choices, known)
            save(known)
    return known


def _left(asked: Asked, known: Tuning) -> list[Answer]:
    """Return what is worth trying and was not tried."""
    entry = known.entries.get(asked.question.key, Entry())
    return [c for c in candidates(asked.question, asked.answer) if c not in entry.tried]


def _next_choices(asked: list[Asked], known: Tuning) -> dict[str, Answer]:
    """Return the next schedule to try of every question; one at a time for each kernel."""
    chosen: dict[str, Answer] = {}
    busy: set[Nodes] = set()
    for each in asked:
        left = _left(each, known)
        if left and busy.isdisjoint(each.nodes):
            chosen[each.question.key] = left[0]
            busy |= set(each.nodes)
    return chosen


class _Bench:
    """Compiles a model with schedules and times it."""

    def __init__(self, subject: Subject, file: Path) -> None:
        self.subject = subject
        self.file = file
        self._now: tuple[dict[str, Answer], CompiledModel] | None = None

    def ask(self, known: Tuning) -> list[Asked]:
        """Return the questions that the model asks, with the answers that are known."""
        subject = self.subject
        schedules = ask_schedules(
            subject.model, shapes=subject.shapes, options=self._options(known.answers())
        )
        nodes: dict[Question, list[Nodes]] = {}
        answers: dict[Question, Answer] = {}
        for group, questions in schedules.asked.items():
            for question, answer in questions.items():
                nodes.setdefault(question, []).append(group)
                answers[question] = answer
        return [Asked(q, answers[q], tuple(groups)) for q, groups in nodes.items()]

    def attempt(self, asked: list[Asked], choices: Mapping[str, Answer], known: Tuning) -> Tuning:
        """Time the model with the choices; those beyond doubt faster become answers."""
        answers = known.answers()
        if self._now is None or self._now[0] != answers:
            self._now = answers, self._compile(answers)
        try:
            tried = self._compile({**answers, **choices})
        except WhetError:
            return self._apart(asked, choices, known)
        race = Race(self._now[1], tried, self.subject.inputs)
        changes = {}
        for each in asked:
            key = each.question.key
            if key in choices:
                old = known.entries.get(key, Entry())
                changes[key] = _judged(old, each, choices[key], race)
        return known.updated(changes)

    def _apart(self, asked: list[Asked], choices: Mapping[str, Answer], known: Tuning) -> Tuning:
        """Try choices one by one, of which one cannot be compiled; that one counts as tried."""
        if len(choices) == 1:
            ((key, answer),) = choices.items()
            old = known.entries.get(key, Entry())
            return known.updated({key: _with(old, answer, old.answer, None)})
        for key, answer in choices.items():
            known = self.attempt(asked, {key: answer}, known)
        return known

    def _options(self, answers: Mapping[str, Answer]) -> Options:
        entries = {key: Entry(answer=answer) for key, answer in answers.items()}
        self.file.write_text(Tuning(entries=entries).text())
        return replace(self.subject.options, tuning=self.file)

    def _compile(self, answers: Mapping[str, Answer]) -> CompiledModel:
        subject = self.subject
        return compile_model(subject.model, shapes=subject.shapes, options=self._options(answers))


def _judged(old: Entry, asked: Asked, choice: Answer, race: Race) -> Entry:
    times = race.times(asked.nodes)
    best = choice if times.faster() else old.answer
    return _with(old, choice, best, times.medians())


def _with(
    old: Entry, tried: Answer, best: Answer | None, medians: tuple[float, float] | None
) -> Entry:
    """Return an entry after one more trial.

    The gain of several steps is the product of each one's: machines do not hold still in between.
    """
    before, after = medians or (old.tuned_us, old.tuned_us)
    kept = best == tried
    default_us = old.default_us if old.tuned_us == 0 else old.default_us / old.tuned_us * before
    return Entry(
        answer=best,
        default_us=default_us or before,
        tuned_us=after if kept else before,
        tried=(*old.tried, tried),
    )
