"""The other replicas: what they are asked, and how it travels: JSON over HTTP, on a port that no client is given."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from store.log import Append, BehindError, Entry, FencedError, Position, Standing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

REQUEST_SECONDS = 5.0
"""Within which a peer has to answer. One whose node has no processor time to spare is slow, and not gone."""

LINE_BYTES = 4 * 1024 * 1024
"""The longest line of a copy, and the largest message: more than a page of entries takes, as they travel."""

TROUBLES = (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError)
"""What asking a peer raises, other than what the peer means to say."""


class UnavailableError(Exception):
    """A peer does not answer, or not with what it was asked for."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another replica."""

    name: str
    address: str
    """Host and port of its replication port."""
    session: aiohttp.ClientSession

    async def standing(self) -> Standing:
        """Ask how far it is. Raises UnavailableError."""
        return standing_from(await self._ask("GET", "standing", None))

    async def prepare(self, token: int) -> Standing:
        """Have it refuse smaller tokens from now on. Raises FencedError and UnavailableError."""
        return standing_from(await self._ask("POST", "prepare", {"token": token}))

    async def append(self, append: Append) -> None:
        """Have it store entries. Raises FencedError, BehindError and UnavailableError."""
        await self._ask("POST", "append", append_to(append))

    async def copy(self, token: int, after: int) -> AsyncGenerator[dict[str, Any]]:
        """Yield the lines of its log after an entry, or of all of it where that is no longer there.

        The first line tells which, the last one has `end`. Raises UnavailableError.
        """
        limits = aiohttp.ClientTimeout(sock_connect=REQUEST_SECONDS, sock_read=REQUEST_SECONDS)
        query = {"token": str(token), "after": str(after)}
        try:
            async with self.session.get(f"http://{self.address}/copy", params=query, timeout=limits) as answer:
                answer.raise_for_status()
                while line := await answer.content.readline(max_line_length=LINE_BYTES):
                    yield json.loads(line)
        except TROUBLES as error:
            raise UnavailableError(f"{self.name} cannot be copied from: {error!r}") from error

    async def _ask(self, method: str, what: str, body: object) -> dict[str, Any]:
        limits = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        try:
            async with self.session.request(
                method, f"http://{self.address}/{what}", json=body, timeout=limits
            ) as answer:
                told: dict[str, Any] = await answer.json()
                match answer.status:
                    case HTTPStatus.OK:
                        return told
                    case HTTPStatus.FORBIDDEN:
                        raise FencedError(int(told["promised"]))
                    case HTTPStatus.CONFLICT:
                        raise BehindError(int(told["committed"]))
                    case status:
                        raise UnavailableError(f"{self.name} answers {what} with status {status}")
        except TROUBLES as error:
            raise UnavailableError(f"{self.name} does not answer {what}: {error!r}") from error


def entries_to(entries: Sequence[Entry]) -> list[list[object]]:
    """Return entries as they travel."""
    return [
        [one.sequence, one.token, one.key, None if one.value is None else b64encode(one.value).decode()]
        for one in entries
    ]


def entries_from(told: Sequence[Sequence[Any]]) -> list[Entry]:
    """Return entries that came. Raises ValueError and TypeError."""
    return [
        Entry(int(sequence), int(token), key, None if value is None else b64decode(value))
        for sequence, token, key, value in told
    ]


def standing_to(standing: Standing) -> dict[str, object]:
    """Return a standing as it travels."""
    return {"promised": standing.promised, "last": standing.last, "member": standing.member}


def standing_from(told: dict[str, Any]) -> Standing:
    """Return a standing that came. Raises KeyError, ValueError and TypeError."""
    token, sequence = told["last"]
    last = Position(int(token), int(sequence))
    return Standing(promised=int(told["promised"]), last=last, member=told["member"] is True)


def append_to(append: Append) -> dict[str, object]:
    """Return an append as it travels."""
    return {
        "leader": append.leader,
        "token": append.token,
        "previous": append.previous,
        "entries": entries_to(append.entries),
        "committed": append.committed,
        "horizon": append.horizon,
    }


def append_from(told: dict[str, Any]) -> Append:
    """Return an append that came. Raises KeyError, ValueError and TypeError."""
    token, sequence = told["previous"]
    entries = entries_from(told["entries"])
    if [one.sequence for one in entries] != list(range(sequence + 1, sequence + 1 + len(entries))):
        raise ValueError("entries that do not follow one another")
    return Append(
        leader=str(told["leader"]),
        token=int(told["token"]),
        previous=Position(int(token), int(sequence)),
        entries=entries,
        committed=int(told["committed"]),
        horizon=int(told["horizon"]),
    )
