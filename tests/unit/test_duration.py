"""Durations are read and written as Go's time package does it; the tables follow Go's own tests in substance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import duration

NS = 1e-9
US = 1e-6
MS = 1e-3
MINUTE = 60.0
HOUR = 3600.0
MICRO = "\u00b5"
MU = "\u03bc"
MAX = (2**63 - 1) / 10**9
MIN = -(2**63) / 10**9

READ = [
    ("0", 0.0),
    ("5s", 5.0),
    ("30s", 30.0),
    ("1478s", 1478.0),
    ("-5s", -5.0),
    ("+5s", 5.0),
    ("-0", 0.0),
    ("+0", 0.0),
    ("5.0s", 5.0),
    ("5.6s", 5.6),
    ("5.s", 5.0),
    (".5s", 0.5),
    ("1.0s", 1.0),
    ("1.00s", 1.0),
    ("1.004s", 1.004),
    ("1.0040s", 1.004),
    ("100.00100s", 100.001),
    ("10ns", 10 * NS),
    ("11us", 11 * US),
    (f"12{MICRO}s", 12 * US),
    (f"12{MU}s", 12 * US),
    ("13ms", 13 * MS),
    ("14s", 14.0),
    ("15m", 15 * MINUTE),
    ("16h", 16 * HOUR),
    ("3h30m", 3.5 * HOUR),
    ("10.5s4m", 4 * MINUTE + 10.5),
    ("-2m3.4s", -(2 * MINUTE + 3.4)),
    ("1h2m3s4ms5us6ns", HOUR + 2 * MINUTE + 3.004005006),
    ("39h9m14.425s", 39 * HOUR + 9 * MINUTE + 14.425),
    ("52763797000ns", 52.763797),
    ("0.3333333333333333333h", 20 * MINUTE),
    ("9007199254740993ns", 9007199254740993 / 10**9),
    ("9223372036854775807ns", MAX),
    ("9223372036854775.807us", MAX),
    ("9223372036s854ms775us807ns", MAX),
    ("-9223372036854775808ns", MIN),
    ("-9223372036854775.808us", MIN),
    ("-9223372036s854ms775us808ns", MIN),
    ("-2562047h47m16.854775808s", MIN),
    ("0.100000000000000000000h", 6 * MINUTE),
    ("0.830103483285477580700h", 49 * MINUTE + 48.372539827),
    ("0" * 5000 + "1s", 1.0),
    ("0." + "0" * 5000 + "1s", 0.0),
    ("0.1" + "0" * 5000 + "s", 0.1),
]

INVALID = [
    "",
    "-",
    "+",
    "s",
    ".",
    "-.",
    ".s",
    "+.s",
    "--1s",
    "+-1s",
    " 1s",
    "\x85\x85",
    "\uffff",
    "hello \uffff world",
    "\udcff",
    "\0",
    "9223372036854775810ns",
    "9223372036854775808ns",
    "-9223372036854775809ns",
    "9223372036854776us",
    "3000000h",
    "9223372036854775.808us",
    "9223372036854ms775us808ns",
    "\u0663s",  # a digit elsewhere, not in Go
    "99999999999999999999x",
]

MISSING_UNIT = ["3", "-3", "00", "0.0", "1.", ".5", "1s2", "1.2.3s", "1s0"]

UNKNOWN_UNIT = [
    ("1d", "d"),
    ("1y", "y"),
    ("1S", "S"),
    ("1M", "M"),
    ("1 s", " s"),
    ("1s ", "s "),
    ("1s!!2s", "s!!"),
    ("1e3s", "e"),
    ("1s-2s", "s-"),
    ("1s\n", "s\n"),
    ("1\0s", "\0s"),
    ("1\u0661s", "\u0661s"),
]

WRITTEN = [
    ("0s", 0.0),
    ("1ns", NS),
    (f"1.1{MICRO}s", 1100 * NS),
    ("2.2ms", 2200 * US),
    ("250ms", 0.25),
    ("999.999999ms", 0.999999999),
    ("1s", 1.0),
    ("2.5s", 2.5),
    ("3.3s", 3.3),
    ("6.666666667s", 20 / 3),
    ("10s", 10.0),
    ("1m0s", 60.0),
    ("1m30s", 90.0),
    ("4m5.001s", 245.001),
    ("1h0m0s", HOUR),
    ("5h6m7.001s", 5 * HOUR + 6 * MINUTE + 7.001),
    ("24h0m0s", 24 * HOUR),
    ("-1m30s", -90.0),
]


@pytest.mark.parametrize(("text", "seconds"), READ)
def test_reads_what_go_reads(text: str, seconds: float) -> None:
    """Every form that Go accepts gives Go's value, to the nanosecond."""
    assert duration.parse(text) == pytest.approx(seconds, rel=1e-15, abs=NS / 10)


@pytest.mark.parametrize("text", INVALID)
def test_refuses_what_go_calls_invalid(text: str) -> None:
    """Text that is no duration, or more nanoseconds than an int64 holds, is refused in Go's words."""
    with pytest.raises(ValueError, match=r"^invalid duration ") as refused:
        duration.parse(text)
    assert str(refused.value) == f"invalid duration {text!r}"


@pytest.mark.parametrize("text", MISSING_UNIT)
def test_refuses_a_number_without_a_unit(text: str) -> None:
    """Only 0 may stand without a unit."""
    with pytest.raises(ValueError, match=r"^missing unit") as refused:
        duration.parse(text)
    assert str(refused.value) == f"missing unit in duration {text!r}"


@pytest.mark.parametrize(("text", "unit"), UNKNOWN_UNIT)
def test_refuses_a_unit_that_go_does_not_know(text: str, unit: str) -> None:
    """Days, years, upper case, blanks, exponents and signs inside are no part of the grammar."""
    with pytest.raises(ValueError, match=r"^unknown unit") as refused:
        duration.parse(text)
    assert str(refused.value) == f"unknown unit {unit!r} in duration {text!r}"


def test_an_error_repeats_only_the_beginning_of_an_enormous_text() -> None:
    """The error stays one short line however long the text is."""
    with pytest.raises(ValueError, match=r"^invalid duration '9{64}\.\.\.'$"):
        duration.parse("9" * 100_000 + "s")


@pytest.mark.parametrize(("text", "seconds"), WRITTEN)
def test_writes_as_go_writes(text: str, seconds: float) -> None:
    """Go's form: units below a second one at a time, above it hours, minutes and decimal seconds."""
    assert duration.render(seconds) == text


@given(st.floats(min_value=-(2.0**23), max_value=2.0**23))
def test_what_is_written_reads_as_the_same_time(seconds: float) -> None:
    """Reading what was written gives the time to the nanosecond, and writing that gives the same text.

    Up to 97 days, as far as a float tells nanoseconds apart.
    """
    text = duration.render(seconds)
    again = duration.parse(text)
    assert again == pytest.approx(seconds, rel=0, abs=NS)
    assert duration.render(again) == text


@given(st.integers(min_value=-92 * 10**17, max_value=92 * 10**17))
def test_every_time_of_up_to_291_years_survives_writing_and_reading(nanoseconds: int) -> None:
    """No time is changed by more than a float's own resolution."""
    seconds = nanoseconds / 10**9
    assert duration.parse(duration.render(seconds)) == pytest.approx(seconds, rel=1e-15, abs=NS)


def outcome(text: str) -> float | str:
    """Return what parse returns, or what it refuses the text with."""
    try:
        return duration.parse(text)
    except ValueError as refused:
        return str(refused)


@given(st.text(st.characters(exclude_categories=()) | st.sampled_from("0123456789.+-hmsnu" + MICRO + MU)))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    """Whatever the text: a number within Go's range, or a ValueError of one line in Go's words."""
    result = outcome(text)
    if isinstance(result, float):
        assert MIN <= result <= MAX
    else:
        assert result.startswith(("invalid duration ", "missing unit in duration ", "unknown unit "))
        assert len(result.splitlines()) == 1
