"""Bytes read as a series of choices, so that a fuzzer that knows of nothing but bytes can play with anything."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")


class Choices:
    """Reads `data` from its beginning; once it is used up, every choice is the first, and every text is empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not used yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(self.left)

    def number(self, size: int = 1) -> int:
        """Return the number in the next bytes."""
        return int.from_bytes(self.take(size), "little")

    def pick(self, among: Sequence[T]) -> T:
        """Return one of at most 256."""
        return among[self.number() % len(among)]

    def text(self) -> str:
        """Return up to 255 bytes as text. What is no UTF-8 becomes lone surrogates, which JSON and the system know."""
        return self.take(self.number()).decode("utf-8", "surrogateescape")

    def pieces(self) -> Iterator[bytes]:
        """Return all that is left, cut where the bytes before each piece say."""
        while self.left:
            yield self.take(self.number() + 1)

    def json(self, words: Sequence[str], depth: int = 4) -> object:
        """Return a value that JSON can carry; `words` are among its keys and texts."""
        match self.number() % (12 if depth else 10):
            case 0:
                return None
            case 1:
                return self.pick((True, False))
            case 2:
                return self.number()
            case 3:
                return self.number(8) - 2**63
            case 4:
                return self.pick((1.5, -0.0, 1e300, math.inf, math.nan, 10**400, -1, 2**64, 2**31 - 1, 86_401))
            case 5 | 6:
                return self.text()
            case 7:
                return chr(self.number(2)) * self.number(2)
            case 8 | 9:
                return self.pick(words)
            case 10:
                return [self.json(words, depth - 1) for _ in range(self.number() % 5)]
        return self.fields(words, depth)

    def fields(self, words: Sequence[str], depth: int = 4) -> dict[str, object]:
        """Return a JSON object, most of whose keys are among `words`."""
        return {
            self.pick(words) if self.number() % 8 else self.text(): self.json(words, depth - 1)
            for _ in range(self.number() % 10)
        }


def loose_json(data: bytes) -> object:
    """Return the JSON value in `data`, which may be any; `None` where it is none."""
    try:
        value: object = json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return value
