"""Watch streams, cut anywhere: lock events, the end, or an `ApiError`; never more in memory than a line may have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sidecar.election import Changed, Deleted
from sidecar.kube import ANSWER_LIMIT, ApiError
from sidecar.lab import virtualtime
from sidecar.locks import Bookmark, EndpointsLock
from tests.safety.fuzz.choices import Choices
from tests.safety.fuzz.fake_api import READ_SIZE, Answer, check_error, client

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENS = (
    '{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"7"}}}\n',
    '{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8"}}}\n',
    '{"type":"ERROR","object":{"code":410,"message":"too old"}}\n',
    "ADDED",
    "DELETED",
    "type",
    "object",
    "metadata",
    "annotations",
    "resourceVersion",
    "code",
    "message",
)

_STATUSES = (200, 200, 200, 200, 200, 200, 410, 403, 401, 404, 429, 500, 304, 101)

_TYPES = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "OTHER", "", None)
_WORDS = (*TOKENS[5:12], "control-plane.alpha.kubernetes.io/leader", "leader-elector/claim", "a\nb")

_MOST_IN_MEMORY = ANSWER_LIMIT + 8 * READ_SIZE
"""Bytes: the longest line, and what aiohttp may hold behind it."""

_MOST_EVENTS = 100_000


def check(data: bytes) -> None:
    """Fail on anything but lock events, the end of the watch, or an `ApiError`."""
    choices = Choices(data)
    status, endless = choices.pick(_STATUSES), choices.number()
    pieces: Iterator[bytes] = choices.pieces() if choices.number() % 2 else _events(choices)
    meter = _Meter(pieces, endless=endless % 32 == 0)
    virtualtime.run(_watched(Answer(status, {"Retry-After": str(endless)}, meter.counted()), meter))
    assert meter.most <= _MOST_IN_MEMORY, "one event takes too much memory"


class _Meter:
    """Counts what was sent since the last event that came out. Now and then the last piece comes again and again."""

    def __init__(self, pieces: Iterator[bytes], *, endless: bool) -> None:
        self._pieces = pieces
        self._endless = endless
        self.since = 0
        self.most = 0

    def counted(self) -> Iterator[bytes]:
        """Yield the pieces, as long as anybody reads them, or has read far too much."""
        piece = b""
        for piece in self._pieces:
            yield self._sent(piece)
        if self._endless and piece and b"\n" not in piece:
            piece *= 1 + READ_SIZE // len(piece)
            while self.since <= _MOST_IN_MEMORY:
                yield self._sent(piece)

    def _sent(self, piece: bytes) -> bytes:
        self.since += len(piece)
        self.most = max(self.most, self.since)
        return piece


def _events(choices: Choices) -> Iterator[bytes]:
    """Yield pieces of events, most of which are some."""
    size = choices.number() * choices.number() + 1
    while choices.left:
        line = {"type": choices.pick(_TYPES), "object": choices.json(_WORDS)}
        if choices.number() % 2:
            line["object"] = {"metadata": {"resourceVersion": str(choices.number())} | choices.fields(_WORDS, 2)}
        if choices.number() % 16 == 0:
            line |= choices.fields(_WORDS)
        content = json.dumps(line).encode() + b"\n"
        # In so many pieces at most, or it takes seconds.
        step = max(size, len(content) // 256)
        yield from (content[at : at + step] for at in range(0, len(content), step))


async def _watched(answer: Answer, meter: _Meter) -> None:
    async with client(answer) as (kube, _):
        lock = EndpointsLock(kube, namespace="n", election="e")
        seen = 0
        try:
            async with lock.watch(7, 60) as events:
                async for event in events:
                    assert isinstance(event, Changed | Deleted | Bookmark)
                    seen += 1
                    meter.since = 0
        except ApiError as error:
            check_error(error)
        assert seen < _MOST_EVENTS
