"""Answers and lists of the API server: any status, header and body is an object, a list, or an `ApiError`."""

from __future__ import annotations

import json

from sidecar.kube import ApiError
from sidecar.lab import virtualtime
from tests.safety.fuzz.choices import Choices
from tests.safety.fuzz.fake_api import Answer, check_error, client

TOKENS = (
    '{"items":[{"metadata":{}}],"metadata":{"resourceVersion":"7","continue":"t"}}',
    '{"kind":"Status","message":"because","code":409}',
    "items",
    "continue",
    "metadata",
    "message",
    "resourceVersion",
    "null",
)

_WORDS = (*TOKENS[2:], "a\nb")
_STATUSES = (200, 200, 200, 201, 299, 300, 304, 400, 401, 403, 404, 409, 410, 422, 429, 500, 503, 599, 999, 0)


def check(data: bytes) -> None:
    """Fail on any exception but `ApiError`, and on an error that is more than one short line."""
    choices = Choices(data)
    status, header = choices.pick(_STATUSES), choices.text()
    pages = choices.rest().split(b"\0") if choices.number() % 2 else _pages(choices)
    answers = [Answer(status, {"Retry-After": header}, [page]) for page in pages]
    virtualtime.run(_asked(answers))


def _pages(choices: Choices) -> list[bytes]:
    """Return pages, most of which are some."""
    pages = []
    for _ in range(choices.number() % 4 + 1):
        items = [choices.fields(_WORDS, 2) for _ in range(choices.number() % 4)]
        metadata = {"continue": choices.pick(("t", "", None, 7)), "resourceVersion": str(choices.number())}
        page = {"items": items, "metadata": metadata} | (choices.fields(_WORDS) if choices.number() % 2 else {})
        pages.append(json.dumps(page).encode())
    return pages


async def _asked(answers: list[Answer]) -> None:
    async with client(*answers) as (kube, _):
        try:
            assert isinstance(await kube.get("/path"), dict)
        except ApiError as error:
            check_error(error)
    async with client(*answers) as (kube, api):
        try:
            items = await kube.list_metadata("/path", label="a=b", cached=False)
        except ApiError as error:
            check_error(error)
        else:
            assert all(isinstance(item, dict) for item in items)
            assert items.version >= 0
        assert api.sent == []
