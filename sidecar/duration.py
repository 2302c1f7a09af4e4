"""Durations as Go writes them: `10s`, `1m30s`, `250ms`.

The grammar, the limits and the wording of errors are those of Go's `time.ParseDuration` and `Duration.String`,
because the stock image's command lines are written in them.
"""

import re
from fractions import Fraction

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # micro sign
    "\u03bcs": 10**3,  # Greek letter mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_SECOND = 10**9
_LIMIT = 2**63  # Go counts nanoseconds in an int64; only a negative duration may reach the limit itself
_TERMS = re.compile(r"(?=.)([0-9]*)(\.[0-9]*)?([^0-9.]*)", re.DOTALL)  # whole, fraction, unit; covers any text
_SHOWN = 64  # characters of a refused text that an error repeats


def parse(text: str) -> float:
    """Return the seconds that `text` says, as Go's `time.ParseDuration` reads it.

    Raises ValueError, worded as Go words it, for everything that Go refuses: no digits, no unit, an unknown unit,
    or more nanoseconds than an int64 holds.
    """
    refused = ValueError(f"invalid duration {_shown(text)}")
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise refused
    total = 0
    for whole, fraction, unit in _TERMS.findall(rest):
        number = _whole(whole)
        if number > _LIMIT or not (whole or fraction.strip(".")):
            raise refused
        if not unit:
            raise ValueError(f"missing unit in duration {_shown(text)}")
        if unit not in _NANOSECONDS:
            raise ValueError(f"unknown unit {_shown(unit)} in duration {_shown(text)}")
        total += number * _NANOSECONDS[unit] + _fraction(fraction[1:], _NANOSECONDS[unit])
        if total > _LIMIT:
            raise refused
    if text.startswith("-"):
        return -total / _SECOND
    if total == _LIMIT:
        raise refused
    return total / _SECOND


def render(seconds: float) -> str:
    """Return `seconds`, a finite number, as Go's `Duration.String` writes it, to the nanosecond."""
    count = round(Fraction(seconds) * _SECOND)
    sign = "-" if count < 0 else ""
    count = abs(count)
    if count == 0:
        return "0s"
    for unit in ("ns", "\u00b5s", "ms"):
        if count < 1000 * _NANOSECONDS[unit]:
            return f"{sign}{_decimal(count, _NANOSECONDS[unit])}{unit}"
    minutes, rest = divmod(count, _NANOSECONDS["m"])
    hours, minutes = divmod(minutes, 60)
    written = f"{_decimal(rest, _SECOND)}s"
    if hours or minutes:
        written = f"{minutes}m{written}"
    if hours:
        written = f"{hours}h{written}"
    return sign + written


def _whole(digits: str) -> int:
    significant = digits.lstrip("0")
    # More digits than the limit has are too many already, and int() refuses thousands of them in other words.
    return int(significant or "0") if len(significant) <= len(str(_LIMIT)) else _LIMIT + 1


def _fraction(digits: str, unit: int) -> int:
    """Return the nanoseconds in the decimal fraction `digits` of a unit.

    Done in floating point as Go does it, so that `0.3333333333333333333h` is 20 minutes here too. Digits that do
    not fit an int64 any more are dropped.
    """
    number = 0
    scale = 1.0
    for digit in digits:
        longer = number * 10 + int(digit)
        if longer > _LIMIT:
            break
        number = longer
        scale *= 10
    return int(number * (unit / scale))


def _decimal(count: int, unit: int) -> str:
    whole, rest = divmod(count, unit)
    if not rest:
        return str(whole)
    places = len(str(unit)) - 1
    return f"{whole}.{rest:0{places}d}".rstrip("0")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
