"""What stands in for kubernetes_asyncio's ApiClient: answers that are given, cut anywhere, and never a socket.

`KubeClient` and everything above it is the real one; the bytes go through aiohttp's own stream, with its limits.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast
from unittest.mock import patch

from aiohttp.streams import StreamReader
from multidict import CIMultiDict

from sidecar import kube
from sidecar.kube import KubeClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from aiohttp.base_protocol import BaseProtocol
    from kubernetes_asyncio.client import Configuration

    from sidecar.kube import ApiError

READ_SIZE = 2**16
"""What aiohttp's client is made to buffer, by default."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: how it begins, and the pieces in which its body comes."""

    status: int
    headers: Mapping[str, str]
    pieces: Iterable[bytes]


class Response:
    """As much of an `aiohttp.ClientResponse` as the client uses. `buffered` is the most that it ever held."""

    def __init__(self, answer: Answer) -> None:
        loop = asyncio.get_running_loop()
        self.status = answer.status
        self.headers = CIMultiDict(answer.headers)
        self._flow = _Flow()
        self.content = StreamReader(cast("BaseProtocol", self._flow), READ_SIZE, loop=loop)
        self._feeding = loop.create_task(self._feed(iter(answer.pieces)))

    async def _feed(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            await self._flow.readable.wait()
            if piece:
                self.content.feed_data(piece)
        self.content.feed_eof()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._feeding.cancel()


class _Flow:
    """As much of a connection as a stream knows: it is open, and stops when the stream holds enough."""

    connected = True

    def __init__(self) -> None:
        self.readable = asyncio.Event()
        self.readable.set()

    @property
    def _reading_paused(self) -> bool:
        return not self.readable.is_set()

    def pause_reading(self) -> None:
        self.readable.clear()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - aiohttp's own
        self.readable.set()


class Api:
    """As much of an ApiClient as the client uses: it gives the answers in turn, the last one again and again."""

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers
        self.user_agent = ""
        self.sent: list[Mapping[str, Any]] = []

    async def call_api(self, _path: str, _method: str, **request: Any) -> Response:  # noqa: ANN401 - the library's
        """Take a request, and begin to answer."""
        if request.get("body") is not None:
            self.sent.append(request["body"])
        return Response(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])

    async def close(self) -> None:
        """There is nothing to close."""


@asynccontextmanager
async def client(*answers: Answer) -> AsyncIterator[tuple[KubeClient, Api]]:
    """Return a client that is given these answers, and what takes its requests."""
    api = Api(list(answers))

    async def load() -> Configuration:
        return cast("Configuration", None)

    with patch.object(kube, "ApiClient", lambda _: api):
        real = KubeClient(load, timeout=5.0, user_agent="fuzz", clock=asyncio.get_running_loop().time)
        try:
            await real.connect()
            yield real, api
        finally:
            await real.close()


def check_error(error: ApiError) -> None:
    """Fail unless it is one short line, and says of a write that it was not applied only where that is known."""
    assert len(str(error)) < 1000
    assert len(str(error).splitlines()) == 1
    assert 0 <= error.retry_after < 10**9
    assert error.refused == (error.status is not None and 400 <= error.status < 500)
