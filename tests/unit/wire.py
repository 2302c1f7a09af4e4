"""A server that answers with exactly the bytes that a test gives it, one answer a request, and keeps what was asked."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

HANG: Final = b"\0hang"
"""Send nothing more, and keep the connection open."""


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """The server: `answers` are sent in turn, the last one again and again."""

    answers: list[bytes]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                self.asked.append(await _request(reader))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                content, hangs, _ = answer.partition(HANG)
                writer.write(content)
                await writer.drain()
                if hangs:
                    await reader.read()
                if hangs or b"Connection: close" in content:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def wire(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """Serve these answers on a free port."""
    served = Wire(list(answers))
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, ssl=tls)
    served.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()


def http(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """Return an answer; `length` is what its header claims, if not the truth."""
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answered(body: object, status: int = 200) -> bytes:
    """Return an answer with JSON."""
    return http(status, json.dumps(body).encode(), "Content-Type: application/json")


def streamed(*lines: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a watch: each line in a chunk of its own."""
    chunks = b"".join(f"{len(line):x}".encode() + b"\r\n" + line + b"\r\n" for line in lines)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + end


def event(kind: str, body: Any) -> bytes:  # noqa: ANN401 - whatever JSON can carry
    """Return a line of a watch."""
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


async def _request(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)
