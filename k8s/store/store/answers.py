"""What is the same on both ports: what a write and a read come to on this replica, and how errors are told."""

from __future__ import annotations

import logging
import sqlite3
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from store.leader import NotStoredError, UnknownError

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from store.node import Node

KEY_BYTES = 256
VALUE_BYTES = 64 * 1024

SEQUENCE = "Store-Sequence"
"""The header that says which write stored the value that is answered with."""

logger = logging.getLogger(__name__)


async def read(node: Node, key: str, *, consistent: bool = False) -> web.Response:
    """Answer with the value that is committed here; `consistent`, if this replica still leads.

    Raises NotStoredError when it does not.
    """
    if consistent:
        if node.leader is None:
            raise NotStoredError("this replica does not lead")
        await node.leader.confirm()
    found = node.replica.log.read(key)
    if found is None:
        raise web.HTTPNotFound(text=f"nothing is stored under {key}")
    value, sequence = found
    return web.Response(body=value, headers={SEQUENCE: str(sequence)})


async def write(node: Node, key: str, value: bytes | None) -> web.Response:
    """Store a value, or delete it, as the leader; answer once a majority has it.

    Raises NotStoredError and UnknownError.
    """
    if node.leader is None:
        raise NotStoredError("this replica does not lead")
    if node.stopping:
        raise NotStoredError("this replica is ending")
    entry = await node.leader.write(key, value)
    return web.json_response({"sequence": entry.sequence, "token": entry.token})


def key_of(request: web.Request) -> str:
    """Return the key that a path names. Raises HTTPBadRequest."""
    key = request.match_info["key"]
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise web.HTTPBadRequest(text="a key is UTF-8") from None
    if key in {".", ".."}:
        raise web.HTTPBadRequest(text=f"{key} is no key")
    if size > KEY_BYTES:
        raise web.HTTPBadRequest(text=f"the key has {size} bytes, more than {KEY_BYTES}")
    return key


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors with a line of JSON."""
    try:
        return await handler(request)
    except NotStoredError as error:
        return told(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    except UnknownError as error:
        return told(HTTPStatus.GATEWAY_TIMEOUT, f"it may or may not have been stored: {error}")
    except web.HTTPRequestEntityTooLarge:
        return told(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the value has more than {VALUE_BYTES} bytes")
    except web.HTTPException as error:
        return told(HTTPStatus(error.status), error.text or error.reason)
    except sqlite3.Error as error:
        return told(HTTPStatus.INTERNAL_SERVER_ERROR, f"the disk fails: {error}")


def told(status: HTTPStatus, error: str, **more: object) -> web.Response:
    """Return the answer that tells an error. What may be well in a moment says when to come back."""
    headers = {"Retry-After": "1"} if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    return web.json_response({"error": error, **more}, status=status, headers=headers)
