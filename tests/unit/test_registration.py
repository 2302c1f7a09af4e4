"""The registration on the wire: its bytes, the key that it stands under, and what is believed of others'."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.record import LONGEST_IDENTITY
from sidecar.registration import (
    LONGEST_REGISTRATION,
    REGISTRATION_LIMIT,
    REGISTRATION_PREFIX,
    Registration,
    _parse,
    registration_key,
    registrations,
)

QUALIFIED_NAME = re.compile(r"[a-z0-9.-]+/([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
"""The key of an annotation (k8s.io/apimachinery, `IsQualifiedName`), of at most 63 characters after the slash."""

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("identity", "node", "pod_uid", "seen", "accepted")


def under_its_key(text: str, identity: str = "a") -> Registration | None:
    """Return what is read from a text that stands under a candidate's key."""
    key = registration_key(identity)
    return registrations({key: text}).get(key)


# -- Writing -----------------------------------------------------------------------------------------------------------


def test_registration_bytes() -> None:
    """A registration is compact JSON with every field, in the order in which they are declared."""
    registration = Registration(identity="web-0", node="n1", pod_uid="u")
    assert registration.encode() == '{"identity":"web-0","node":"n1","pod_uid":"u","seen":0,"accepted":0}'
    accepted = Registration(identity="a<b", node="n1", pod_uid="u", seen=3, accepted=2**64 - 1)
    assert accepted.encode() == (
        '{"identity":"a\\u003cb","node":"n1","pod_uid":"u","seen":3,"accepted":18446744073709551615}'
    )


@given(
    st.builds(
        Registration,
        identity=NAMES,
        node=NAMES,
        pod_uid=NAMES,
        seen=st.integers(0, 2**64 - 1),
        accepted=st.integers(0, 2**64 - 1),
    )
)
def test_registrations_round_trip(registration: Registration) -> None:
    """Every registration that a candidate writes is read back as it was, under its own key."""
    assert under_its_key(registration.encode(), registration.identity) == registration


# -- The key -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", ["web-0", "a", "A_b.c-9", "x" * 53])
def test_an_identity_that_fits_stands_in_the_key(identity: str) -> None:
    """A pod's name is readable in the key."""
    assert registration_key(identity) == f"leader-elector/candidate.{identity}"


@pytest.mark.parametrize("identity", ["x" * 54, "x" * 253, "-", "web-0.", "a b", "a/b", "Köln", "\ud800", "a\n", ""])
def test_an_identity_that_does_not_fit_is_hashed(identity: str) -> None:
    """What is too long, or no part of a key, goes in as sixteen hexadecimal digits of its own."""
    key = registration_key(identity)
    assert re.fullmatch(r"leader-elector/candidate\.[0-9a-f]{16}", key)
    assert registration_key(f"{identity}?") != key


def test_the_hash_never_changes() -> None:
    """Versions that run side by side find each other's registrations: SHA-256 of the identity in UTF-8, its start."""
    assert registration_key("Köln") == "leader-elector/candidate.430b4fc55e4ef149"


@given(ANY_TEXT)
def test_every_key_is_one_that_an_annotation_can_have(identity: str) -> None:
    """Whatever a candidate is called, the API server takes its key, and it is found again by its prefix."""
    key = registration_key(identity)
    assert key.startswith(REGISTRATION_PREFIX)
    assert QUALIFIED_NAME.fullmatch(key)
    assert len(key.partition("/")[2]) <= 63


# -- Reading -----------------------------------------------------------------------------------------------------------


def test_others_annotations_are_no_registrations() -> None:
    """Only what stands under the prefix is read."""
    text = Registration(identity="a", node="n", pod_uid="u").encode()
    others = {"leader-elector/claim": text, "leader-elector/candidates.a": text, "candidate.a": text, "": text}
    assert registrations(others) == {}
    assert list(registrations({**others, registration_key("a"): text})) == [registration_key("a")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "[]",
        "null",
        "7",
        "{}",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"identity":"a"}',
        '{"identity":"a","node":""}',
        '{"identity":"a","node":7}',
        f'{{"identity":"a","node":"{"x" * (LONGEST_IDENTITY + 1)}"}}',
        '{"identity":7,"node":"n"}',
        '{"identity":["a"],"node":"n"}',
        '{"node":"n"}',
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_registration(text: str) -> None:
    """Garbage, and a candidate without identity or node, are not there."""
    assert under_its_key(text) is None


def test_a_registration_under_another_s_key_does_not_count() -> None:
    """Nobody is registered by an annotation that stands where another candidate's does."""
    text = Registration(identity="b", node="n", pod_uid="u").encode()
    assert under_its_key(text, "a") is None
    assert under_its_key(text, "Köln") is None
    assert under_its_key(text, "b") is not None


@pytest.mark.parametrize("field", ["seen", "accepted"])
@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), (str(2**64 - 1), 2**64 - 1), (str(2**64), 0), ("-1", 0), ("1.5", 0), ("true", 0), ('"7"', 0), ("{}", 0)],
)
def test_counters_have_bounds(field: str, text: str, value: int) -> None:
    """A counter is a whole number of 64 bits; whatever is none is 0."""
    registration = under_its_key(f'{{"identity":"a","node":"n","{field}":{text}}}')
    assert registration is not None
    assert getattr(registration, field) == value


def test_a_registration_that_is_too_long() -> None:
    """A registration is read up to a length; a longer one is none."""
    text = '{"identity":"a","node":"n"'
    assert under_its_key(text + " " * (LONGEST_REGISTRATION - len(text) - 1) + "}") is not None
    assert under_its_key(text + " " * (LONGEST_REGISTRATION - len(text)) + "}") is None


def test_what_is_too_long_is_not_remembered() -> None:
    """What somebody writes takes no memory here for longer than it stands on the lock object."""
    before = _parse.cache_info().currsize
    assert registrations({registration_key("a"): '{"identity":"a","node":"n"' + " " * LONGEST_REGISTRATION + "}"}) == {}
    assert _parse.cache_info().currsize == before


def test_only_so_many_are_read() -> None:
    """Of more registrations than the limit, everybody reads the same ones: the first by name."""
    names = [f"c-{number:05}" for number in range(REGISTRATION_LIMIT + 100)]
    texts = {
        registration_key(name): Registration(identity=name, node="n", pod_uid="u").encode() for name in reversed(names)
    }
    found = registrations(texts)
    assert [each.identity for each in found.values()] == names[:REGISTRATION_LIMIT]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_no_json_is_too_much(fields: dict[str, object]) -> None:
    """Every type in every field is read, and what was read can be written and carried as UTF-8."""
    registration = under_its_key(json.dumps({"identity": "a", "node": "n", **fields}))
    assert registration is None or registration.encode().encode()


@given(st.dictionaries(ANY_TEXT | st.builds("{}{}".format, st.just(REGISTRATION_PREFIX), ANY_TEXT), ANY_TEXT))
def test_no_text_is_too_much(annotations: dict[str, str]) -> None:
    """Whatever the annotations are, reading them raises nothing."""
    for key, registration in registrations(annotations).items():
        assert registration_key(registration.identity) == key
