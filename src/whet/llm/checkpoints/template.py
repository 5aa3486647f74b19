"""Chat templates: a checkpoint's own program that writes a conversation as a prompt.

It runs in a sandbox that cannot reach outside its arguments, within limits of time and size.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from whet.errors import InputError

SECONDS = 5.0
"""A template that is not done by then is stopped."""

SIZE = 4 << 20
"""Characters of a prompt, and elements of anything that a template multiplies."""


class _TooMuchError(Exception):
    """The template went over a limit."""


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    tools: Sequence[Mapping[str, Any]] = (),
    switches: Mapping[str, Any] | None = None,
    *,
    seconds: float = SECONDS,
) -> str:
    """Return what a chat template makes of a conversation.

    Args:
        template: in the language of Jinja.
        messages: what was said.
        names: names of special tokens.
        tools: functions that the model may call.
        switches: of the template's own, such as ``enable_thinking``.
        seconds: when the template is stopped.

    Raises:
        InputError: the template fails, or goes over a limit; the reason is in the message.
    """
    from jinja2 import TemplateError

    try:
        made = _sandbox().from_string(template)
        with _deadline(seconds):
            return _joined(
                made.generate(
                    {
                        **(switches or {}),
                        **names,
                        "messages": [dict(m) for m in messages],
                        "tools": [dict(t) for t in tools] or None,
                        "add_generation_prompt": True,
                    }
                )
            )
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
            RecursionError, MemoryError, _TooMuchError) as error:  # fmt: skip
        raise InputError(
            f"the chat template failed: {error}"[:500],
            where="chat template",
            hint="check the roles and contents of the messages",
        ) from error


def _joined(parts: Iterator[str]) -> str:
    found: list[str] = []
    size = 0
    for part in parts:
        found.append(part)
        size += len(part)
        if size > SIZE:
            raise _TooMuchError(f"it writes more than {SIZE} characters")
    return "".join(found)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Stop whatever of a template runs too long: a look at the clock at each line of its code."""
    end, before = time.perf_counter() + seconds, sys.gettrace()

    def watch(frame: Any, event: str, argument: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != "<template>":
            return None
        if time.perf_counter() > end:
            raise _TooMuchError(f"it was not done in {seconds:g} s")
        return watch

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


def _sandbox() -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        """Refuses products that would fill the memory."""

        intercepted_binops = frozenset(("*", "**", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """Compute a product, a power or a remainder."""
            sizes = [len(v) for v in (left, right) if isinstance(v, str | list | tuple)]
            factor = right if isinstance(right, int) else left if isinstance(left, int) else 1
            power = operator == "**" and not (abs(left) < 2**16 and abs(right) < 64)
            format_ = operator == "%" and isinstance(left, str)
            if power or format_ or (operator == "*" and sizes and sizes[0] * factor > SIZE):
                raise _TooMuchError(f"it uses {operator} on something large")
            return super().call_binop(context, operator, left, right)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = time.strftime
    made.filters["tojson"] = _json
    for name in ("center", "format", "wordwrap"):
        del made.filters[name]
    return made


def _json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Return JSON as templates expect it: no HTML escapes, letters as they are."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
