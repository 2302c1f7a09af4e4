"""The record and the claim on the wire: strict to write, byte for byte as Go does it, and tolerant to read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.record import (
    CHECKING,
    HEAVIEST,
    LEADING,
    LONGEST_CLAIM,
    LONGEST_IDENTITY,
    LONGEST_LEASE_SECONDS,
    Claim,
    Record,
    Snapshot,
    UnreadableRecord,
    format_time,
    go_json,
    parse_claim,
    parse_record,
    parse_time,
)

STOCK = (
    '{"holderIdentity":"web-0","leaseDurationSeconds":10,"acquireTime":"2024-05-01T10:00:00Z",'
    '"renewTime":"2024-05-01T10:00:42Z","leaderTransitions":3}'
)
"""As client-go's Endpoints lock writes it."""

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=LONGEST_IDENTITY)
SHORT_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=253)
RECORDS = st.builds(
    Record,
    holder=NAMES,
    lease_seconds=st.integers(1, LONGEST_LEASE_SECONDS),
    acquire_time=st.integers(0, 2**33).map(format_time),
    renew_time=st.integers(0, 2**33).map(format_time),
    transitions=st.integers(0, 2**31 - 2),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
KEYS = ("holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaderTransitions")
CLAIM_KEYS = ("holder", "node", "pod_uid", "weight", "state", "successor", "term", "moves", "renewed")


def readable(text: str) -> Record:
    """Parse what has to be readable."""
    parsed = parse_record(text)
    assert isinstance(parsed, Record), parsed
    return parsed


# -- Writing -----------------------------------------------------------------------------------------------------------


def test_record_bytes() -> None:
    """The keys stand in client-go's order, without spaces, whole seconds in UTC."""
    record = Record(
        holder="web-0",
        lease_seconds=10,
        acquire_time=format_time(1714557600),
        renew_time=format_time(1714557642),
        transitions=3,
    )
    assert record.encode() == STOCK


def test_record_is_read_and_written_unchanged() -> None:
    """What client-go wrote comes out byte for byte as it went in."""
    assert readable(STOCK).encode() == STOCK


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a<b>&c", r'"a\u003cb\u003e\u0026c"'),
        ("line\u2028para\u2029", r'"line\u2028para\u2029"'),
        ('q"b\\s/', r'"q\"b\\s/"'),
        ("\n\r\t", r'"\n\r\t"'),
        ("\x00\x1f", r'"\u0000\u001f"'),
        ("Köln-東京-😀", '"Köln-東京-😀"'),
        ("\x7f", '"\x7f"'),
    ],
)
def test_escapes_are_go_s(text: str, written: str) -> None:
    """Go escapes what HTML and JavaScript could trip over, and leaves every other character as UTF-8."""
    assert go_json({"k": text}) == f'{{"k":{written}}}'


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), NAMES, max_size=4))
def test_escapes_keep_the_meaning(value: dict[str, str]) -> None:
    """Whatever is escaped is read back as it was."""
    assert json.loads(go_json(value)) == value


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1714557600, "2024-05-01T10:00:00Z"),
        (2**31, "2038-01-19T03:14:08Z"),
        (253402300799, "9999-12-31T23:59:59Z"),
        (253402300800, "9999-12-31T23:59:59Z"),
        (2**62, "9999-12-31T23:59:59Z"),
    ],
)
def test_time_format(seconds: int, text: str) -> None:
    """RFC 3339 in UTC and whole seconds; it stays in the last year that has four digits."""
    assert format_time(seconds) == text


@given(RECORDS)
def test_records_round_trip(record: Record) -> None:
    """Every record that can be written is read back as it was."""
    assert parse_record(record.encode()) == record


@given(
    st.builds(
        Claim,
        holder=SHORT_NAMES.filter(bool),
        node=SHORT_NAMES,
        pod_uid=SHORT_NAMES,
        weight=st.integers(1, HEAVIEST),
        state=st.sampled_from([LEADING, CHECKING]),
        successor=SHORT_NAMES,
        term=st.integers(0, 2**64 - 1),
        moves=st.integers(0, 2**64 - 1),
    )
)
def test_claims_round_trip(claim: Claim) -> None:
    """Every claim that can be written is read back as it was."""
    assert parse_claim(claim.encode()) == claim


def test_claim_bytes() -> None:
    """A claim is compact JSON with every field, in the order in which they are declared."""
    claim = Claim(holder="web-0", node="n1", pod_uid="u")
    assert claim.encode() == (
        '{"holder":"web-0","node":"n1","pod_uid":"u","weight":1,"state":"leading","successor":"","term":0,"moves":0,'
        '"renewed":""}'
    )
    checking = Claim(
        holder="web-0",
        node="n1",
        pod_uid="u",
        weight=4,
        state=CHECKING,
        successor="web-1",
        term=2**64 - 1,
        moves=3,
        renewed="2024-05-01T10:00:02Z",
    )
    assert checking.encode() == (
        '{"holder":"web-0","node":"n1","pod_uid":"u","weight":4,"state":"checking","successor":"web-1",'
        '"term":18446744073709551615,"moves":3,"renewed":"2024-05-01T10:00:02Z"}'
    )


# -- Reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"holderIdentity":"a","leaseDurationSeconds":10}',
        '{"holderIdentity":"a","leaseDurationSeconds":10,"acquireTime":null,"renewTime":null,"leaderTransitions":null}',
        '{"holderIdentity":"a","leaseDurationSeconds":10,"acquireTime":7,"renewTime":[],"leaderTransitions":"3"}',
        '{"holderIdentity":"a","leaseDurationSeconds":10,"leaderTransitions":-1}',
        '{"holderIdentity":"a","leaseDurationSeconds":10,"leaderTransitions":2147483647}',
        '{"holderIdentity":"a","leaseDurationSeconds":10,"leaderTransitions":true}',
        '{"holderIdentity":"a","leaseDurationSeconds":10,"leaderTransitions":1.5}',
        '{"holderIdentity":"a","leaseDurationSeconds":10,"strategy":"x","preferredHolder":{"deep":[1]}}',
        ' {\n"leaseDurationSeconds" : 10 , "holderIdentity" : "a" }\n',
    ],
)
def test_what_decides_nothing_is_forgiven(text: str) -> None:
    """Missing, damaged and unknown fields that do not decide who leads are read as empty, and a count starts anew."""
    assert readable(text) == Record(holder="a", lease_seconds=10, acquire_time="", renew_time="", transitions=0)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"holderIdentity":""}',
        '{"holderIdentity":null,"leaseDurationSeconds":null}',
        '{"holderIdentity":"","leaseDurationSeconds":0,"acquireTime":null,"renewTime":null,"leaderTransitions":0}',
        '{"holderIdentity":"","leaseDurationSeconds":"garbage"}',
    ],
)
def test_no_holder_is_a_released_lock(text: str) -> None:
    """Without a holder nothing else matters: the lock was given up."""
    assert readable(text).holder == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("   ", "not JSON"),
        ("garbage", "not JSON"),
        ('{"holderIdentity":"a"', "not JSON"),
        ("'single'", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("null", "not a JSON object"),
        ("7", "not a JSON object"),
        ("NaN", "not JSON"),
        ('{"holderIdentity":7}', "holderIdentity"),
        ('{"holderIdentity":["a"],"leaseDurationSeconds":10}', "holderIdentity"),
        ('{"holderIdentity":true,"leaseDurationSeconds":10}', "holderIdentity"),
        (f'{{"holderIdentity":"{"x" * (LONGEST_IDENTITY + 1)}","leaseDurationSeconds":10}}', "holderIdentity"),
        ('{"holderIdentity":"a"}', "leaseDurationSeconds"),
        ('{"holderIdentity":"a","leaseDurationSeconds":0}', "leaseDurationSeconds"),
        ('{"holderIdentity":"a","leaseDurationSeconds":-10}', "leaseDurationSeconds"),
        ('{"holderIdentity":"a","leaseDurationSeconds":"10"}', "leaseDurationSeconds"),
        ('{"holderIdentity":"a","leaseDurationSeconds":true}', "leaseDurationSeconds"),
        ('{"holderIdentity":"a","leaseDurationSeconds":10.5}', "leaseDurationSeconds"),
        ('{"holderIdentity":"a","leaseDurationSeconds":1e999}', "leaseDurationSeconds"),
        ('{"holderIdentity":"a","leaseDurationSeconds":NaN}', "not JSON"),
        ('{"holderIdentity":"a","leaseDurationSeconds":10,"priority":Infinity}', "not JSON"),
        ('{"holderIdentity":0,"leaseDurationSeconds":10}', "holderIdentity"),
        ('{"holderIdentity":false,"leaseDurationSeconds":10}', "holderIdentity"),
        ('{"holderIdentity":[],"leaseDurationSeconds":10}', "holderIdentity"),
        ('{"holderIdentity":{},"leaseDurationSeconds":10}', "holderIdentity"),
        ('{"holderIdentity":"a","leaseDurationSeconds":86401}', "leaseDurationSeconds"),
        ('{"holderIdentity":"a","leaseDurationSeconds":99999999999999999999}', "leaseDurationSeconds"),
        (f'{{"holderIdentity":"a","leaseDurationSeconds":{"9" * 10_000}}}', "not JSON"),
    ],
)
def test_what_cannot_be_understood_is_said(text: str, reason: str) -> None:
    """A record under which somebody may lead, and that cannot be understood, is unreadable, with the reason."""
    parsed = parse_record(text)
    assert isinstance(parsed, UnreadableRecord), parsed
    assert parsed.reason.startswith(reason)
    assert "\n" not in parsed.reason
    assert len(parsed.reason) < 300


def test_lone_surrogates_are_replaced_as_go_does() -> None:
    """JSON can spell half a character, UTF-8 cannot carry it: it is read as U+FFFD, and can be written."""
    record = readable(r'{"holderIdentity":"a\ud800b","leaseDurationSeconds":10,"acquireTime":"\udfff"}')
    assert record.holder == "a\ufffdb"
    assert record.acquire_time == "\ufffd"
    assert record.encode().encode()
    assert readable(r'{"holderIdentity":"\ud83d\ude00","leaseDurationSeconds":10}').holder == "😀"


def test_last_of_two_equal_keys_counts() -> None:
    """As in Go, the last one wins."""
    assert readable('{"holderIdentity":"a","holderIdentity":"b","leaseDurationSeconds":10}').holder == "b"


def test_keys_in_another_case_count() -> None:
    """As in Go: whom client-go takes for the holder is never taken for nobody."""
    record = readable('{"HolderIdentity":"a","LEASEDURATIONSECONDS":10,"renewtime":"x"}')
    assert (record.holder, record.lease_seconds, record.renew_time) == ("a", 10, "x")
    assert readable('{"holderIdentity":"","holderidentity":"b","leaseDurationSeconds":10}').holder == "b"
    assert readable('{"holderIdentity":"a","leaseDurationSeconds":10,"holderIdentity":null}').holder == "a"


@given(st.text())
def test_no_text_is_too_much(text: str) -> None:
    """Whatever the annotations hold, reading them raises nothing."""
    assert isinstance(parse_record(text), Record | UnreadableRecord)
    parse_claim(text)


@given(st.dictionaries(st.sampled_from([*KEYS, *CLAIM_KEYS, "other"]), JSON))
def test_no_json_is_too_much(fields: dict[str, object]) -> None:
    """Every type in every field is read, and what was read can be written and carried as UTF-8."""
    text = json.dumps(fields)
    parsed = parse_record(text)
    if isinstance(parsed, Record):
        assert parsed.encode().encode()
        if parsed.holder:
            assert 1 <= parsed.lease_seconds <= LONGEST_LEASE_SECONDS
    claim = parse_claim(text)
    assert claim is None or claim.encode().encode()


@pytest.mark.parametrize(
    "text",
    [None, "", "garbage", "[]", "null", "{}", '{"holder":""}', '{"holder":7}', '{"node":"n"}', "[" * 100_000],
)
def test_what_is_no_claim_counts_as_none(text: str | None) -> None:
    """A claim only ever adds to a record, so a damaged one is none."""
    assert parse_claim(text) is None


def test_claim_forgives_what_it_can() -> None:
    """Unknown fields are ignored, damaged ones are empty."""
    assert parse_claim('{"holder":"a","node":7,"strategy":3}') == Claim(holder="a", node="", pod_uid="")


def test_claim_of_an_earlier_version_is_read() -> None:
    """What a claim without the later fields means: weight 1, leading, no successor, no term, no moves, no record."""
    claim = parse_claim('{"holder":"a","node":"n","pod_uid":"u"}')
    assert claim == Claim(holder="a", node="n", pod_uid="u", weight=1, state=LEADING, successor="", term=0, moves=0)
    assert claim.renewed == ""


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("weight", "1", 1),
        ("weight", "1000", 1000),
        ("weight", "0", 1),
        ("weight", "-1", 1),
        ("weight", "1001", HEAVIEST),
        ("weight", str(2**64 - 1), HEAVIEST),
        ("weight", str(2**64), 1),
        ("weight", "1e999", 1),
        ("weight", "4.0", 1),
        ("weight", "true", 1),
        ("weight", '"4"', 1),
        ("weight", "null", 1),
        ("state", '"checking"', CHECKING),
        ("state", '"leading"', LEADING),
        ("state", '"Checking"', LEADING),
        ("state", "[]", LEADING),
        ("state", "null", LEADING),
        ("successor", '"b"', "b"),
        ("successor", "7", ""),
        ("successor", "null", ""),
        ("successor", f'"{"x" * LONGEST_IDENTITY}"', "x" * LONGEST_IDENTITY),
        ("successor", f'"{"x" * (LONGEST_IDENTITY + 1)}"', ""),
        ("node", f'"{"x" * (LONGEST_IDENTITY + 1)}"', ""),
        ("pod_uid", f'"{"x" * (LONGEST_IDENTITY + 1)}"', ""),
        ("renewed", '"2024-05-01T10:00:02Z"', "2024-05-01T10:00:02Z"),
        ("renewed", "7", ""),
        *(
            (field, text, value)
            for field in ("term", "moves")
            for text, value in (
                ("0", 0),
                ("7", 7),
                (str(2**64 - 1), 2**64 - 1),
                (str(2**64), 0),
                ("-1", 0),
                ("1.5", 0),
                ("NaN", 0),
                ("true", 0),
                ('"7"', 0),
                ("{}", 0),
            )
        ),
    ],
)
def test_claim_s_fields_have_bounds(field: str, text: str, value: object) -> None:
    """A field that is out of its range counts as not given, and a weight is cut to the greatest there is."""
    claim = parse_claim(f'{{"holder":"a","{field}":{text}}}')
    assert claim is not None
    assert getattr(claim, field) == value


def test_claim_that_is_too_long() -> None:
    """A claim is read up to a length, into which the longest names that are believed fit; a longer one is none."""
    for character in "x<\u2028":
        name = character * LONGEST_IDENTITY
        longest = Claim(holder=name, node=name, pod_uid=name, successor=name, renewed=name)
        assert parse_claim(longest.encode()) == longest
    text = '{"holder":"a"'
    assert parse_claim(text + " " * (LONGEST_CLAIM - len(text) - 1) + "}") == Claim(holder="a", node="", pod_uid="")
    assert parse_claim(text + " " * (LONGEST_CLAIM - len(text)) + "}") is None


def test_claim_for_a_successor() -> None:
    """A release names its successor: such a claim has no holder, and is one nevertheless."""
    claim = Claim(holder="", node="n", pod_uid="u", successor="b")
    assert parse_claim(claim.encode()) == claim


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10),
        ("1970-01-01T01:00:10.999999+01:00", 10),
        ("9999-12-31T23:59:59Z", 253402300799),
        ("1970-01-01T00:00:10", 0),
        ("0001-01-01T00:00:00+14:00", -62135647200),
        ("", 0),
        ("yesterday", 0),
    ],
)
def test_times_are_read(text: str, seconds: int) -> None:
    """RFC 3339 with its zone, in whole seconds; what is no time is 0."""
    assert parse_time(text) == seconds


# -- Together ----------------------------------------------------------------------------------------------------------


def test_claim_counts_only_beside_its_holder() -> None:
    """A claim that another holder left standing does not count; beside a released record, a successor's does."""
    claim = Claim(holder="a", node="n", pod_uid="u")
    beside = {holder: parse_record(f'{{"holderIdentity":"{holder}","leaseDurationSeconds":10}}') for holder in "ab"}
    assert Snapshot(version=1, text="", record=beside["a"], claim=claim).valid_claim is claim
    assert Snapshot(version=1, text="", record=beside["b"], claim=claim).valid_claim is None
    for none in (parse_record("{}"), parse_record("?"), None):
        assert Snapshot(version=1, text="", record=none, claim=claim).valid_claim is None
        assert Snapshot(version=1, text="", record=none, claim=claim).holder == ""
    handed_over = Claim(holder="", node="n", pod_uid="u", successor="b")
    assert Snapshot(version=1, text="", record=parse_record("{}"), claim=handed_over).valid_claim is handed_over
    assert Snapshot(version=1, text="", record=beside["a"], claim=handed_over).valid_claim is None


def test_claim_counts_only_beside_the_record_that_it_was_written_with() -> None:
    """A holder of the same name that knows nothing of claims renews the record, and does not inherit the claim."""
    claim = Claim(holder="a", node="n", pod_uid="u", renewed="2024-05-01T10:00:02Z")
    for renewed, valid in (("2024-05-01T10:00:02Z", claim), ("2024-05-01T10:00:04Z", None), ("", None)):
        record = parse_record(f'{{"holderIdentity":"a","leaseDurationSeconds":10,"renewTime":"{renewed}"}}')
        assert Snapshot(version=1, text="", record=record, claim=claim).valid_claim is valid
