"""python -m tests.safety.chaos.writers URL CA_FILE: writes annotations on one object as fast as it can, until killed.

Half of the writers patch, half read the object and update it whole, and so conflict with everybody. A process of its
own, so that the one that watches the candidates is not held up.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
import sys
from typing import Any

import aiohttp

TOKEN = "CHAOS_TOKEN"
"""The variable with the administrator's token."""

KEY = "example.com/note-"
"""What the keys of the annotations begin with; each writer has a key of its own."""

TELL_EVERY = 10
"""Writes that were answered, refused or not, between two lines that say how many there were so far."""

WRITERS = 24
REQUEST_SECONDS = 5.0
TRY_AGAIN = 0.05
"""Seconds until somebody who got no answer tries again."""

MERGE = {"Content-Type": "application/merge-patch+json"}


async def write(url: str, ca_file: str, token: str) -> None:
    """Let all writers write, without end."""
    trusted = ssl.create_default_context(cafile=ca_file)
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"},
        connector=aiohttp.TCPConnector(ssl=trusted, limit=WRITERS),
        timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
    ) as session:
        writers = [(_patch, _update)[number % 2](session, url, f"{KEY}{number}") for number in range(WRITERS)]
        await asyncio.gather(*writers)


_answered = itertools.count(1)


def _tell() -> None:
    number = next(_answered)
    if number % TELL_EVERY == 0:
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


async def _patch(session: aiohttp.ClientSession, url: str, key: str) -> None:
    for count in itertools.count():
        try:
            body = {"metadata": {"annotations": {key: str(count)}}}
            async with session.patch(url, json=body, headers=MERGE) as answer:
                await answer.read()
            _tell()
        except (OSError, aiohttp.ClientError):
            await asyncio.sleep(TRY_AGAIN)


async def _update(session: aiohttp.ClientSession, url: str, key: str) -> None:
    for count in itertools.count():
        try:
            async with session.get(url) as answer:
                found: dict[str, Any] = await answer.json()
            if answer.ok:
                found["metadata"].setdefault("annotations", {})[key] = str(count)
                # Most of these are refused: somebody else was faster.
                async with session.put(url, json=found) as answer:
                    await answer.read()
                _tell()
        except (OSError, aiohttp.ClientError, ValueError):
            await asyncio.sleep(TRY_AGAIN)


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], sys.argv[2], os.environ[TOKEN]))
