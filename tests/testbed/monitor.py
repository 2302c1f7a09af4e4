"""Asks candidates many times a second who leads, and judges whether two ever named themselves at once.

    async with Monitor(one, another) as monitor:
        ...
    assert monitor.at_once() == []

It runs in the test's own loop, over one kept-alive connection to each candidate. Its judgement is sound on a slow
machine: only what two answers prove counts, and being late makes what they prove shorter, never longer. It also knows
how late it was itself, so that a test can bound what takes time without bounding what a busy machine adds.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from tests.testbed.sidecar import Sidecar

EVERY = 0.015
"""Seconds from one question to the next."""

LONGEST_GAP = 0.5
"""Seconds between two answers beyond which they prove nothing about the time between them.

It is longer where questions are rare, see `longest_gap`.
"""

QUESTION = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Naming:
    """One answer: whom it named, None when none came, and between which instants of `time.monotonic` it was made."""

    sent: float
    received: float
    name: str | None


@dataclass(frozen=True, slots=True)
class Span:
    """From the first to the last of consecutive answers in which a candidate named itself, or one such answer.

    From `begin` to `end` it led. A single answer has no such span (`end` before `begin`), but was made at an instant
    between `sent` and `received`.
    """

    sent: float
    begin: float
    end: float
    received: float

    def overlaps(self, other: Span) -> bool:
        """Tell whether both led at some instant."""
        return max(self.begin, other.begin) < min(self.end, other.end) or self._holds(other) or other._holds(self)

    def _holds(self, other: Span) -> bool:
        """Tell whether one of the other's answers was made while this one led."""
        return any(
            self.begin <= sent and received <= self.end
            for sent, received in ((other.sent, other.begin), (other.end, other.received))
        )


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Two candidates that led at once, by the names of their logs, and what proves it."""

    one: str
    another: str
    spans: tuple[Span, Span]


class Monitor:
    """Asks each candidate until the block ends. Candidates are told apart as processes: two may have one identity."""

    def __init__(self, *candidates: Sidecar) -> None:
        self._candidates = list(candidates)
        self._answers: dict[Sidecar, list[Naming]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ticks: list[float] = []

    def watch(self, candidate: Sidecar) -> None:
        """Ask one more candidate from now on."""
        self._answers[candidate] = []
        self._tasks.append(asyncio.create_task(self._ask(candidate)))

    async def __aenter__(self) -> Self:
        self._tasks.append(asyncio.create_task(self._tick()))
        for candidate in self._candidates:
            self.watch(candidate)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()):
                raise error

    # -- What was said --

    def answers(self, candidate: Sidecar, *, since: float = 0.0) -> list[Naming]:
        """Return the candidate's answers to what was asked from `since` on; None for a question stands among them."""
        return [answer for answer in self._answers[candidate] if answer.sent >= since]

    def last(self, candidate: Sidecar, *, since: float = 0.0) -> str | None:
        """Return whom the candidate named last; None when nothing that was asked from `since` on was answered."""
        answers = self._answers[candidate]
        return answers[-1].name if answers and answers[-1].sent >= since else None

    def first_received(self, candidate: Sidecar, instant: float) -> Naming | None:
        """Return the first answer that came after `instant`, None when none did."""
        return next((answer for answer in self._answers[candidate] if answer.received > instant), None)

    def last_naming(self, candidate: Sidecar, *names: str) -> Naming | None:
        """Return the candidate's last answer that names one of `names`, or anybody where none is given."""
        for answer in reversed(self._answers[candidate]):
            if answer.name and (not names or answer.name in names):
                return answer
        return None

    def self_namings(self, *, since: float = 0.0) -> list[tuple[Sidecar, Naming]]:
        """Return every answer, to what was asked from `since` on, in which a candidate named itself, in order."""
        found = [
            (candidate, answer)
            for candidate in self._answers
            for answer in self.answers(candidate, since=since)
            if answer.name == candidate.identity
        ]
        return sorted(found, key=lambda one: one[1].sent)

    def spans(self, candidate: Sidecar) -> Iterator[Span]:
        """Yield when the candidate named itself."""
        return spans(candidate.identity, self._answers[candidate])

    def at_once(self) -> list[AtOnce]:
        """Return who named itself while who else did; empty when that is not proven of any two."""
        return [
            AtOnce(one.log.name, another.log.name, (span, other))
            for one, another in combinations(self._answers, 2)
            for span in self.spans(one)
            for other in self.spans(another)
            if span.overlaps(other)
        ]

    # -- What a busy machine takes --

    def on_time(self, begin: float, end: float) -> float:
        """Return the seconds from `begin` to `end` without those by which the test itself went on too late.

        They were not ours, and hardly the candidates', who share the machine. A candidate that stalls by itself does
        not make the test late.
        """
        instants = [begin, *(tick for tick in self._ticks if begin < tick < end), end]
        return end - begin - sum(max(0.0, later - earlier - EVERY) for earlier, later in pairwise(instants))

    async def _tick(self) -> None:
        while True:
            self._ticks.append(time.monotonic())
            await asyncio.sleep(EVERY)

    async def _ask(self, candidate: Sidecar) -> None:
        await ask(lambda: asyncio.open_connection("127.0.0.1", candidate.port), self._answers[candidate])


# -- Judging --


def longest_gap(every: float) -> float:
    """Return the `LONGEST_GAP` for a question every so many seconds: one of them may come late, or stay out."""
    return max(LONGEST_GAP, 2 * every)


def spans(identity: str, answers: Iterable[Naming], *, gap: float = LONGEST_GAP) -> Iterator[Span]:
    """Yield when the candidate of that name, which gave these answers, named itself.

    Answers that are more than `gap` seconds apart prove nothing about the time between them.
    """
    run: list[Naming] = []
    for answer in answers:
        if run and (answer.name != identity or answer.sent - run[-1].received > gap):
            yield Span(run[0].sent, run[0].received, run[-1].sent, run[-1].received)
            run = []
        if answer.name == identity:
            run.append(answer)
    if run:
        yield Span(run[0].sent, run[0].received, run[-1].sent, run[-1].received)


def unproven(identity: str, answers: Iterable[Naming], *, gap: float = LONGEST_GAP) -> float:
    """Return the seconds between two answers in a row that both name the candidate itself, and prove nothing."""
    return sum(
        later.sent - earlier.received
        for earlier, later in pairwise(answers)
        if earlier.name == later.name == identity and later.sent - earlier.received > gap
    )


# -- Asking --


async def ask(
    connect: Callable[[], Awaitable[Streams]],
    answers: list[Naming],
    *,
    question: bytes = QUESTION,
    every: float = EVERY,
) -> None:
    """Ask one candidate every so many seconds, over one connection as long as that lasts, until cancelled.

    A question that is not answered, because nobody can be reached, is recorded as an answer that names None.
    """
    while True:
        with suppress(OSError, EOFError):
            reader, writer = await connect()
            try:
                await _ask_over(reader, writer, answers, question=question, every=every)
            finally:
                writer.transport.abort()
        now = time.monotonic()
        answers.append(Naming(now, now, None))
        await asyncio.sleep(every)


async def _ask_over(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: list[Naming], *, question: bytes, every: float
) -> None:
    """Ask until the connection ends. Raises OSError or EOFError.

    A question may wait as long as the candidate is stopped: what it answers first, once it goes on, is recorded.
    """
    while True:
        sent = time.monotonic()
        writer.write(question)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"not the candidate's answer: {head!r}")  # but that of a proxy on the way to it
        body = await reader.readexactly(_length(head))
        received = time.monotonic()
        answers.append(Naming(sent, received, str(json.loads(body)["name"])))
        await asyncio.sleep(max(0.0, sent + every - received))


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    raise ConnectionError(f"an answer without a length: {head!r}")
