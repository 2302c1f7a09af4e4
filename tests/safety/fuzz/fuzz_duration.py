"""Durations: the same number or the same words as Go's `time.ParseDuration`, the same text as `Duration.String`.

Both are stated here a second time, character by character and in whole numbers, after Go's own source.
"""

from __future__ import annotations

import struct

from sidecar import duration
from tests.safety.fuzz.choices import Choices

TOKENS = (
    *("ns", "us", "\u00b5s", "\u03bcs", "ms", "s", "m", "h"),
    "9223372036854775807",
    "9223372036854775808",
    ".3333333333333333333",
    "2562047h47m16.854775807s",
)

_UNITS = {
    "ns": 1,
    "us": 1000,
    "\u00b5s": 1000,
    "\u03bcs": 1000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_BOUND = 2**63
_DIGITS = "0123456789"


class _RefusedError(Exception):
    """Go refuses the text, in these words before it quotes it."""


def check(data: bytes) -> None:
    """Fail unless the sidecar reads, refuses and writes as Go does."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        expected: float | str = _parsed(text) / 10**9
    except _RefusedError as refused:
        expected = str(refused)
    try:
        found: float | str = duration.parse(text)
    except ValueError as refused:
        found = str(refused)
    if isinstance(expected, float):
        assert found == expected
    else:
        assert isinstance(found, str)
        assert found.startswith(expected)
        assert len(found.splitlines()) == 1
        assert len(found) < 2000
    (count,) = struct.unpack("<q", Choices(data).take(8).ljust(8, b"\0"))
    # A float tells nanoseconds apart for 97 days.
    count %= 2**23 * 10**9
    assert duration.render(count / 10**9) == _written(count)
    assert _parsed(_written(count)) == count


def _parsed(text: str) -> int:  # noqa: C901 - step by step as Go does it
    """Return the nanoseconds, as `time.ParseDuration` finds them."""
    rest, negative = text, False
    if rest and rest[0] in "+-":
        negative, rest = rest[0] == "-", rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise _RefusedError("invalid duration ")
    total = 0
    while rest:
        if rest[0] not in "." + _DIGITS:
            raise _RefusedError("invalid duration ")
        whole, digits, rest = _leading_whole(rest)
        fraction, scale = 0, 1.0
        if rest.startswith("."):
            before = len(rest) - 1
            fraction, scale, rest = _leading_fraction(rest[1:])
            digits += before - len(rest)
        if not digits:
            raise _RefusedError("invalid duration ")
        unit, rest = _leading_unit(rest)
        value = whole * _UNITS[unit]
        if value > _BOUND:
            raise _RefusedError("invalid duration ")
        if fraction > 0:
            value += int(float(fraction) * (float(_UNITS[unit]) / scale))
        total += value
        if value > _BOUND or total > _BOUND:
            raise _RefusedError("invalid duration ")
    if negative:
        return -total
    if total > _BOUND - 1:
        raise _RefusedError("invalid duration ")
    return total


def _leading_whole(text: str) -> tuple[int, int, str]:
    number = used = 0
    for character in text:
        if character not in _DIGITS:
            break
        if number > _BOUND // 10:
            raise _RefusedError("invalid duration ")
        number = number * 10 + int(character)
        if number > _BOUND:
            raise _RefusedError("invalid duration ")
        used += 1
    return number, used, text[used:]


def _leading_fraction(text: str) -> tuple[int, float, str]:
    number, scale, used, overflowed = 0, 1.0, 0, False
    for character in text:
        if character not in _DIGITS:
            break
        used += 1
        if overflowed:
            continue
        if number > (_BOUND - 1) // 10 or number * 10 + int(character) > _BOUND:
            overflowed = True
            continue
        number = number * 10 + int(character)
        scale *= 10
    return number, scale, text[used:]


def _leading_unit(text: str) -> tuple[str, str]:
    end = next((at for at, character in enumerate(text) if character in "." + _DIGITS), len(text))
    if end == 0:
        raise _RefusedError("missing unit in duration ")
    if text[:end] not in _UNITS:
        raise _RefusedError("unknown unit ")
    return text[:end], text[end:]


def _written(count: int) -> str:
    """Return nanoseconds, none below 0, as `Duration.String` writes them."""
    if count < 1_000_000_000:
        if count == 0:
            return "0s"
        for unit, name, places in ((1, "ns", 0), (1000, "\u00b5s", 3), (1_000_000, "ms", 6)):
            if count < unit * 1000:
                return _point(count, places) + name
    seconds, nanoseconds = divmod(count, 1_000_000_000)
    minutes, seconds = divmod(seconds, 60)
    text = _point(seconds * 1_000_000_000 + nanoseconds, 9) + "s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{minutes}m{text}"
        if hours:
            text = f"{hours}h{text}"
    return text


def _point(count: int, places: int) -> str:
    digits = str(count).rjust(places + 1, "0")
    whole, fraction = digits[: len(digits) - places], digits[len(digits) - places :].rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole
