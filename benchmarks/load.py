"""A language-model server under four times the load that it takes, for as long as one likes.

    python -m benchmarks.load --minutes 30

Callers send valid requests, whole and streamed, greedy and seeded; malformed, oversized and
impossible ones; and they leave, right after asking or in the middle of a stream. Afterwards it is
checked that every answer was the one given without load, that every refusal was an HTTP error with
a reason, that all pages of the cache came back, that the server's memory stayed flat, and that it
still answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.random_llm import Sizes, write_llama

CAPACITY = 8
CONTEXT = 256


@dataclass(slots=True)
class Tally:
    """What happened."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Caller:
    """Sends one request after another until the time is over."""

    client: httpx.AsyncClient
    valid: list[tuple[dict[str, Any], str]]
    tally: Tally
    random: random.Random
    end: float

    async def run(self) -> None:
        """Send requests."""
        kinds = (self.whole, self.streamed, self.malformed, self.cancelled, self.gone)
        while time.monotonic() < self.end:
            kind = self.random.choices(kinds, (5, 4, 3, 2, 1))[0]
            try:
                await kind()
            except (httpx.HTTPError, json.JSONDecodeError, KeyError) as error:
                self.tally.wrong.append(f"{kind.__name__}: {error!r}")

    async def whole(self) -> None:
        """Ask for a whole answer."""
        body, wanted = self.random.choice(self.valid)
        answer = await self.client.post("/v1/completions", json=body)
        if self.refused(answer, "whole", {429}):
            return
        self.judge("whole", answer.json()["choices"][0]["text"], wanted)

    async def streamed(self) -> None:
        """Ask for a stream and read all of it."""
        body, wanted = self.random.choice(self.valid)
        text = ""
        asked = {**body, "stream": True}
        async with self.client.stream("POST", "/v1/completions", json=asked) as a:
            if a.status_code != 200:
                await a.aread()
            if self.refused(a, "streamed", {429}):
                return
            async for line in a.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["text"]
        self.judge("streamed", text, wanted)

    async def malformed(self) -> None:
        """Ask for what cannot be."""
        body, statuses = self.random.choice(BAD)
        answer = await self.client.post("/v1/completions", content=body)
        if not self.refused(answer, "malformed", statuses | {429}):
            self.tally.wrong.append(f"malformed: {body[:60]!r} was answered")

    async def cancelled(self) -> None:
        """Leave a stream in the middle."""
        body, _ = self.random.choice(self.valid)
        body = {**body, "stream": True, "ignore_eos": True, "max_tokens": 100}
        async with self.client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
            if self.refused(answer, "cancelled", {429}):
                return
            left = self.random.randint(1, 9)
            async for _ in answer.aiter_lines():
                left -= 1
                if not left:
                    break
        self.tally.kinds["cancelled"] += 1

    async def gone(self) -> None:
        """Ask, and close the connection."""
        body = json.dumps({**self.random.choice(self.valid)[0], "max_tokens": 100}).encode()
        url = self.client.base_url
        _, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        cut = self.random.choice((len(body), len(body) // 2))
        writer.write(head.encode() + body[:cut])
        await writer.drain()
        await asyncio.sleep(self.random.random() * 0.2)
        writer.close()
        self.tally.kinds["gone"] += 1

    def refused(self, answer: httpx.Response, kind: str, statuses: set[int]) -> bool:
        """Tell whether an answer is a refusal, and note one that should not be or has no reason."""
        status = answer.status_code
        if status == 200:
            return False
        self.tally.kinds[f"{kind} {status}"] += 1
        reason = answer.json().get("error", {}).get("message")
        if status not in statuses or not reason:
            self.tally.wrong.append(f"{kind}: {status} {answer.text[:200]}")
        if status == 429 and "retry-after" not in answer.headers:
            self.tally.wrong.append(f"{kind}: 429 without Retry-After")
        return True

    def judge(self, kind: str, text: str, wanted: str) -> None:
        """Compare an answer with the one given without load."""
        self.tally.kinds[f"{kind} 200"] += 1
        if text != wanted:
            self.tally.wrong.append(f"{kind}: {text!r} is not {wanted!r}")


BAD: list[tuple[bytes, set[int]]] = [
    (b"{", {400}),
    (b"[" * 50_000, {400}),
    (b"\xff\xfe\x00", {400}),
    (b'{"prompt": 3}', {400}),
    (b'{"prompt": ""}', {400}),
    (b'{"prompt": [999999]}', {400}),
    (b'{"prompt": [-1]}', {400}),
    (b'{"prompt": "t5", "temperature": 1e999}', {400}),
    (b'{"prompt": "t5", "n": 1000000}', {400}),
    (b'{"prompt": "t5", "max_tokens": 0}', {400}),
    (b'{"prompt": "t5", "stop": [""]}', {400}),
    (b'{"prompt": "t5", "guided_regex": "("}', {400}),
    (json.dumps({"prompt": "t5 " * 400}).encode(), {400}),
    (json.dumps({"prompt": "t5 " * 400_000}).encode(), {413}),
]


def valid_bodies(rng: random.Random) -> list[dict[str, Any]]:
    """Return requests that can be answered; some share a beginning."""
    common = " ".join(f"t{rng.randrange(5, 131)}" for _ in range(70))
    found = []
    for k in range(40):
        own = " ".join(f"t{rng.randrange(5, 131)}" for _ in range(rng.randrange(1, 60)))
        prompt = f"{common} {own}" if k % 2 else own
        body = {"prompt": prompt, "max_tokens": rng.randrange(1, 40), "temperature": 0.0}
        found.append(body | ({"temperature": 1.0, "seed": k, "top_p": 0.9} if k % 3 == 0 else {}))
    return found


async def watch(process: psutil.Process, tally: Tally, end: float) -> None:
    """Note the server's memory every few seconds."""
    while time.monotonic() < end:
        tally.memory.append((time.monotonic(), process.memory_info().rss))
        await asyncio.sleep(5)


async def load(url: str, process: psutil.Process, minutes: float, callers: int) -> Tally:
    """Load a server and return what happened."""
    tally, rng = Tally(), random.Random(0)
    # a connection for each request: an idle one may be closed just as the next request is sent
    limits = httpx.Limits(max_connections=4 * callers, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        valid = []
        for body in valid_bodies(rng):
            answer = await client.post("/v1/completions", json=body)
            valid.append((body, answer.json()["choices"][0]["text"]))
        end = time.monotonic() + 60 * minutes
        seeds = [random.Random(k) for k in range(callers)]
        work = [Caller(client, valid, tally, seed, end).run() for seed in seeds]
        await asyncio.gather(watch(process, tally, end), *work)
        await asyncio.sleep(3)
        for body, wanted in valid[:5]:
            answer = await client.post("/v1/completions", json=body)
            if answer.json()["choices"][0]["text"] != wanted:
                tally.wrong.append("afterwards: another answer")
        numbers = (await client.get("/metrics")).text
    facts = dict(line.split(" ") for line in numbers.splitlines() if line and line[0] != "#")
    print(f"{float(facts['whet_steps']):.0f} steps, {facts['whet_preemptions']} preemptions")
    if facts["whet_cache_pages_free"] != facts["whet_cache_pages"]:
        tally.wrong.append(f"pages are lost: {facts['whet_cache_pages_free']} free")
    return tally


def growth(memory: list[tuple[float, int]]) -> float:
    """Return by which part the memory of the last third exceeds that of the middle third."""
    third = len(memory) // 3
    middle = max(rss for _, rss in memory[third : 2 * third])
    return max(rss for _, rss in memory[2 * third :]) / middle - 1


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a server and wait until it takes requests."""
    command = [sys.executable, "-m", "whet.cli.main", "llm", "serve", str(folder)]
    options = ["--port", str(port), "--max-requests", str(CAPACITY), "--cache-mib", "1"]
    server = subprocess.Popen([*command, *options, "--speculate", "prompt"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    for _ in range(1200):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
                return server
        except httpx.HTTPError:
            pass
        if server.poll() is not None:
            break
        time.sleep(0.25)
    server.kill()
    raise SystemExit("the server did not start")


def main() -> None:
    """Run the load and say whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--callers", type=int, default=4 * CAPACITY)
    given = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        sizes = Sizes(context=CONTEXT, layers=4, kv_heads=4)  # a cache of 16 pages: they get short
        server = start(write_llama(Path(folder), sizes), port)
        try:
            url, process = f"http://127.0.0.1:{port}", psutil.Process(server.pid)
            tally = asyncio.run(load(url, process, given.minutes, given.callers))
        finally:
            server.terminate()
            ended = server.wait(60)
    more = growth(tally.memory)
    if more > 0.05:
        tally.wrong.append(f"memory grew by {more:.1%}")
    for kind, count in sorted(tally.kinds.items()):
        print(f"{count:8} {kind}")
    used = [rss >> 20 for _, rss in tally.memory]
    print(f"memory {used[0]} to {max(used)} MiB, last third {more:+.1%}; exit {ended}")
    for text, count in Counter(tally.wrong).most_common(20):
        print(f"WRONG {count} times: {text}")
    raise SystemExit(bool(tally.wrong))


if __name__ == "__main__":
    main()
