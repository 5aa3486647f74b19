"""Loops whose values grow until there is no memory: refused in time, wherever they are kept."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from whet.errors import ResourceError
from whet.limits import free_bytes, machine_bytes, private_bytes
from whet.runtime import loop_memory
from whet.tests.flow_models import compiled

ROOM = 200 << 20
"""What the machine of these tests has left; each trip takes 4 MiB or twice what the last took."""

HEAD = "d = Identity(c)"
GROWING = {
    "a carried value": f"""g (float[n] x, int64 k) => (float[m] y) {{
        y = Loop(k, , x) < body = b (int64 i, bool c, float[p] v) => (bool d, float[q] w) {{
            {HEAD} w = Concat<axis=0>(v, x) }}> }}""",
    "a carried value that doubles": f"""g (float[n] x, int64 k) => (float[m] y) {{
        y = Loop(k, , x) < body = b (int64 i, bool c, float[p] v) => (bool d, float[q] w) {{
            {HEAD} w = Concat<axis=0>(v, v) }}> }}""",
    "a sequence": f"""g (float[n] x, int64 k) => (seq(float[m]) y) {{
        e = SequenceEmpty()
        y = Loop(k, , e) < body = b (int64 i, bool c, seq(float[p]) s) =>
            (bool d, seq(float[q]) t) {{
            {HEAD} v = Add(x, x) t = SequenceInsert(s, v) }}> }}""",
    "a sequence in a branch": f"""g (float[n] x, int64 k) => (seq(float[m]) y) {{
        e = SequenceEmpty()
        y = Loop(k, , e) < body = b (int64 i, bool c, seq(float[p]) s) =>
            (bool d, seq(float[q]) t) {{ {HEAD} t = If(c) <
                then_branch = a () => (seq(float[r]) u) {{
                    v = Add(x, x) u = SequenceInsert(s, v) }},
                else_branch = o () => (seq(float[r]) u) {{ u = Identity(s) }}> }}> }}""",
    "what is collected": f"""g (float[n] x, int64 k) => (float[m,n] y) {{
        yes = Constant<value = bool {{1}}>()
        y = Loop(k, yes) < body = b (int64 i, bool c) => (bool d, float[q] w) {{
            {HEAD} w = Add(x, x) }}> }}""",
    "what is collected in a loop that collects": f"""g (float[n] x, int64 k) => (float[a,b,n] y) {{
        yes = Constant<value = bool {{1}}>()
        few = Constant<value_int=3>()
        y = Loop(k, yes) < body = b (int64 i, bool c) => (bool d, float[p,q] s) {{
            {HEAD} s = Loop(few, yes) < body = h (int64 j, bool e) => (bool f, float[r] w) {{
                f = Identity(e) w = Add(x, x) }}> }}> }}""",
    "what is put together": f"""g (float[n] x, int64 k) => (float[m] y) {{
        y = Loop(k, , x) < body = b (int64 i, bool c, float[p] v) => (bool d, float[q] w) {{
            {HEAD} s = SequenceConstruct(v, v, v) w = ConcatFromSequence<axis=0>(s) }}> }}""",
}


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which this process may still take 200 MiB."""
    gc.collect()
    most = private_bytes() + ROOM
    monkeypatch.setattr(loop_memory, "free_bytes", lambda: most - private_bytes())
    monkeypatch.setattr(loop_memory, "machine_bytes", lambda: ROOM)
    monkeypatch.setattr(loop_memory, "_LOOK_EVERY_BYTES", 1 << 20)


@pytest.mark.parametrize("name", GROWING)
def test_what_grows_is_refused_in_time(name: str, small_machine: None) -> None:
    model = compiled(GROWING[name])
    feeds: dict[str, Any] = {"x": np.ones(1 << 20, np.float32), "k": np.array(2)}
    assert model(feeds)["y"] is not None
    before = private_bytes()
    with pytest.raises(ResourceError, match="the next step of a loop takes") as caught:
        model({**feeds, "k": np.array(10**9)})
    assert caught.value.where
    assert "fewer trips" in str(caught.value.hint)
    gc.collect()
    assert private_bytes() - before < ROOM


def test_texts_that_grow_are_refused_in_time(small_machine: None) -> None:
    model = compiled("""g (string[n] x, int64 k) => (string[n] y) {
        y = Loop(k, , x) < body = b (int64 i, bool c, string[n] v) => (bool d, string[n] w) {
            d = Identity(c) w = StringConcat(v, v) }> }""")
    feeds: dict[str, Any] = {"x": np.array(["ab"], object), "k": np.array(3)}
    assert model(feeds)["y"].tolist() == ["ab" * 8]
    with pytest.raises(ResourceError, match="the next step of a loop takes"):
        model({**feeds, "k": np.array(64)})


def test_what_does_not_grow_runs_on(small_machine: None) -> None:
    """It makes 4 MiB a trip, and drops as much."""
    model = compiled(GROWING["a carried value"].replace("Concat<axis=0>(v, x)", "Add(v, x)"))
    found = model({"x": np.ones(1 << 20, np.float32), "k": np.array(400)})
    assert found["y"][0] == 401


def test_free_memory_is_that_of_the_machine() -> None:
    assert 0 < free_bytes() < machine_bytes()
