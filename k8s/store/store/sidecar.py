"""What the leader-elector sidecar in the same pod says, and is asked for.

It says who leads, and with which fencing token if it is this pod.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

from store.replica import RETRY_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SILENCE_SECONDS = 5.0
"""The sidecar sends something every 2 to 3 s; one that is silent for longer is stopped, or gone."""

logger = logging.getLogger(__name__)


class Leadership(NamedTuple):
    """Who leads, as far as is known."""

    name: str
    """Of the leader's pod; empty when nobody is known to lead."""
    token: int | None
    """The fencing token while this pod leads."""


NOBODY = Leadership("", None)


async def follow(sidecar: str, session: aiohttp.ClientSession) -> AsyncGenerator[Leadership]:
    """Yield who leads, at first and at each change; NOBODY while the sidecar does not say. It never ends.

    What is true a moment later it cannot tell. That two leaders do no harm to each other is the log's business.
    """
    limits = aiohttp.ClientTimeout(sock_connect=1, sock_read=SILENCE_SECONDS)
    while True:
        try:
            async with session.get(f"{sidecar}/events", timeout=limits) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    if line.startswith(b"data:"):
                        told = json.loads(line[len(b"data:") :])
                        yield Leadership(str(told["name"]), told["fencing_token"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            logger.warning("the sidecar at %s does not say who leads: %r", sidecar, error)
        yield NOBODY
        await asyncio.sleep(RETRY_SECONDS)


async def release(sidecar: str, session: aiohttp.ClientSession) -> None:
    """Have the sidecar give leadership up. Whether it did, `follow` tells; what goes wrong is logged."""
    try:
        async with session.post(f"{sidecar}/release", timeout=aiohttp.ClientTimeout(total=SILENCE_SECONDS)) as answer:
            answer.raise_for_status()
    except (aiohttp.ClientError, TimeoutError) as error:
        logger.warning("the sidecar at %s does not give leadership up: %r", sidecar, error)
