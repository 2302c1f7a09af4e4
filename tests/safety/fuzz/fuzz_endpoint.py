"""The HTTP endpoint: any bytes, cut anywhere, are answered, refused with 400, or not answered; never with more.

The whole server is real, aiohttp's parser included; only the socket is not.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from typing import TYPE_CHECKING, NoReturn, cast

from sidecar import web
from sidecar.candidate import Candidate, Status
from sidecar.lab import virtualtime
from tests.safety.fuzz.choices import Choices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKENS = (
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "GET /status HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "Content-Encoding: gzip\r\n",
    "Content-Encoding: deflate\r\n",
    "Expect: 100-continue\r\n",
    "Connection: close\r\n",
    "/leader",
    "/follower",
    "GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /events HTTP/1.0\r\nLast-Event-ID: a-1\r\n\r\n",
    "/release",
    "/metrics",
    "/openapi.json",
    "/healthz",
    "/readyz",
    "HEAD",
    "OPTIONS",
    "CONNECT",
    "HTTP/1.0\r\n",
    "http://x/",
    "%00",
)

OWN_NAME = "own-name-7f3a"
"""What may stand in no answer of a candidate that does not lead, but for `/status`, which is about it."""

_MOST_BUFFERED = 2**20
_STREAM = b"Content-Type: text/event-stream"


def check(data: bytes) -> None:
    """Fail on an exception, on an answer that is none of those that there are, and where the own name is told."""
    virtualtime.run(_converse(list(Choices(data).pieces())))


async def _converse(pieces: list[bytes]) -> None:
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(str(context)))
    handler = _Kept(failures)
    logger = logging.getLogger(web.__name__)
    logger.addHandler(handler)
    try:
        async with web.connections(web.application(_election())) as connect:
            transport = _Transport()
            protocol = connect()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            for piece in pieces:
                if transport.closed:
                    break
                await transport.readable.wait()
                protocol.data_received(piece)
                await asyncio.sleep(0)
            await asyncio.sleep(1)
            protocol.eof_received()
            await asyncio.sleep(web.IDLE_SECONDS + 1)
            assert transport.closed or _STREAM in transport.sent, "a connection over which nothing comes is closed"
            # As a real one does once the other end has closed it.
            transport.close()
            await asyncio.sleep(0)
    finally:
        logger.removeHandler(handler)
    assert not failures, failures
    for status, head, body in _answers(bytes(transport.sent)):
        _check_answer(status, head, body)


def _check_answer(status: int, head: bytes, body: bytes) -> None:
    assert status in (200, 400, 403, 503), status
    # What is no HTTP is answered by the library, in its name.
    assert status == 400 or b"\r\nServer:" not in head
    if b'"identity"' not in body:
        assert OWN_NAME.encode() not in head + body


def _answers(sent: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the answers; of one to HEAD, whose body is announced and does not come, the next one is taken for it."""
    for part in re.split(rb"(?=HTTP/1\.[01] \d{3} )", sent)[1:]:
        head, _, body = part.partition(b"\r\n\r\n")
        yield int(head[9:12]), head, body


class _Kept(logging.Handler):
    """Keeps what the server logs: errors of the program, which there should be none of."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


class _Transport(asyncio.Transport):
    """The server's end of a connection, whose other end takes everything at once."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 7)})
        self.sent = bytearray()
        self.closed = False
        self.readable = asyncio.Event()
        self.readable.set()
        self._protocol: asyncio.BaseProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "written after the end"
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.readable.clear()

    def resume_reading(self) -> None:
        self.readable.set()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.readable.set()
            if self._protocol is not None:
                asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


class _Follower:
    """A candidate that follows."""

    def leader_name(self) -> str:
        """Return another one's name."""
        return "web-0"

    def is_leading(self) -> bool:
        """Tell that it does not lead."""
        return False

    def is_ready(self) -> bool:
        """Tell that it is ready."""
        return True

    def is_alive(self) -> bool:
        """Tell that it is alive."""
        return True

    def on_change(self, listener: Callable[[], None]) -> None:
        """Never change."""

    def same_until(self) -> float:
        """Never change."""
        return math.inf

    def step_down(self, why: str) -> NoReturn:
        """Fail: the connection comes from elsewhere."""
        raise AssertionError(why)

    def status(self) -> Status:
        """Return what a follower knows."""
        return Status(
            identity=OWN_NAME,
            node="n",
            role="following",
            leader="web-0",
            leader_node="n",
            fencing_token=None,
            since="",
            valid_for=0.0,
            transitions=0,
            why="web-0 holds the lock",
            last_error="",
            placing="",
            census=None,
        )


def _election() -> web.Election:
    return web.Election(
        name="e",
        namespace="n",
        group="",
        candidate=cast("Candidate", _Follower()),
        now=asyncio.get_running_loop().time,
        metrics=_measure,
    )


async def _measure() -> bytes:
    return b"# nothing\n"
