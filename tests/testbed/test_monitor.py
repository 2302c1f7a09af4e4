"""The monitor's judgement, on answers that are made up and on a server that says what it is told to say."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from tests.testbed.monitor import EVERY, LONGEST_GAP, Monitor, Naming, Span, longest_gap, spans, unproven
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from tests.testbed.sidecar import Sidecar


@dataclass(eq=False)
class Speaker:
    """Says over HTTP that `name` leads; None keeps the question waiting."""

    identity: str
    port: int = 0
    name: str | None = ""
    log: Path = Path("log")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await until(lambda: self.name is not None, "an answer", every=0.001)
                body = json.dumps({"name": self.name})
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()


def judged(one: list[Naming], another: list[Naming]) -> bool:
    """Tell whether the monitor says that candidates `a` and `b`, who answered this, led at once."""
    monitor = Monitor()
    monitor._answers = {cast("Sidecar", Speaker("a")): one, cast("Sidecar", Speaker("b")): another}
    return bool(monitor.at_once())


A = [Naming(0.0, 0.1, "a"), Naming(1.0, 1.1, "a"), Naming(1.2, 1.3, "")]


@pytest.mark.parametrize(
    ("another", "at_once"),
    [
        ([Naming(1.05, 1.2, "b"), Naming(1.4, 1.5, "b")], False),
        ([Naming(0.2, 0.3, "a"), Naming(0.4, 0.5, "")], False),
        ([Naming(0.2, 0.3, "b"), Naming(0.5, 0.6, "b")], True),
        ([Naming(0.0, 0.4, "b"), Naming(0.5, 1.2, "b")], True),
        ([Naming(0.3, 0.4, "b"), Naming(0.5, 0.6, "")], True),
        ([Naming(0.05, 0.4, "b"), Naming(0.5, 0.6, "")], False),
        ([Naming(0.2, 0.3, None), Naming(0.5, 0.6, "a")], False),
    ],
    ids=["after", "naming the other", "within", "overlapping", "once", "once, perhaps before", "no answer"],
)
def test_what_counts_as_two_at_once(another: list[Naming], at_once: bool) -> None:  # noqa: FBT001 - from the table
    """Two led at once where answers prove it: between two in a row, or one made wholly between two of the other."""
    close = [Naming(one.sent / 3, one.received / 3, one.name) for one in another]
    assert judged([Naming(one.sent / 3, one.received / 3, one.name) for one in A], close) is at_once


def test_a_long_gap_proves_nothing() -> None:
    """Where nobody asked for a while, the candidate may have led twice with another in between."""
    one = [Naming(0.0, 0.1, "a"), Naming(5.0, 5.1, "a")]
    assert not judged(one, [Naming(2.0, 2.1, "b"), Naming(2.2, 2.3, "b")])


@pytest.mark.parametrize("every", [EVERY, 0.4, 2.0])
def test_rare_questions_still_prove_something(every: float) -> None:
    """With a question left out, two answers prove who led between them; where more is missing, that much is unproven.

    So it is found out when questions came too late to judge anything.
    """
    gap = longest_gap(every)
    assert gap >= max(LONGEST_GAP, 2 * every)
    answers = [Naming(at, at, "a") for at in (0.0, 2 * every, 2 * every + gap + 1, 2 * every + gap + 2)]
    some = [*answers[:3], Naming(answers[3].sent, answers[3].received, "")]

    assert list(spans("a", some, gap=gap)) == [
        Span(0.0, 0.0, 2 * every, 2 * every),
        Span(some[2].sent, some[2].received, some[2].sent, some[2].received),
    ]
    assert unproven("a", some, gap=gap) == pytest.approx(gap + 1)
    assert unproven("b", some, gap=gap) == 0


async def test_time_in_which_the_test_stood_still_does_not_count() -> None:
    """A loop that is held up takes nothing from a bound; time that merely goes by does."""
    async with Monitor() as monitor:
        began = time.monotonic()
        time.sleep(0.4)  # noqa: ASYNC251 - holds the loop up, as a busy machine does
        held_up = time.monotonic() - began
        assert monitor.on_time(began, began + held_up) < 2 * EVERY
        await until(lambda: monitor.on_time(began, time.monotonic()) > 10 * EVERY, "time goes by")
        now = time.monotonic()
        assert monitor.on_time(began, now) < now - began - held_up + 2 * EVERY


async def test_candidates_are_asked_all_the_time() -> None:
    """Who names itself beside another is found out, at many questions a second; who stands answers when it goes on."""
    speakers = [Speaker("a", name="a"), Speaker("b")]
    servers = [await asyncio.start_server(speaker.serve, "127.0.0.1", 0) for speaker in speakers]
    for speaker, server in zip(speakers, servers, strict=True):
        speaker.port = server.sockets[0].getsockname()[1]
    first, second = (cast("Sidecar", speaker) for speaker in speakers)
    async with Monitor(first, second) as monitor:
        await until(lambda: len(monitor.answers(first)) > 10, "ten answers")
        assert monitor.at_once() == []
        speakers[0].name = None
        speakers[1].name = "b"
        await until(lambda: len(monitor.self_namings()) > 20, "the other names itself")
        assert monitor.at_once() == []
        speakers[0].name = "a"
        await until(monitor.at_once, "two name themselves at once")
    for server in servers:
        server.close()
