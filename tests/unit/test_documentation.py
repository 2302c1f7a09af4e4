"""What the documents say of the code is so: limits, what is written on a lock object, variables, permissions."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import election, pairlock, settings
from sidecar.balance import LockSeen, take_census
from sidecar.record import (
    CLAIM_ANNOTATION,
    GROUP_LABEL,
    LOOK_ANNOTATION,
    RECORD_ANNOTATION,
    Claim,
    Record,
    parse_claim,
    parse_record,
)
from sidecar.registration import registration_key, registrations

ROOT = Path(__file__).parents[2]
BALANCE = (ROOT / "docs/balance.md").read_text(encoding="utf-8")
SAFETY = (ROOT / "docs/safety.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

LIMITS = re.findall(r"^\| (`[a-z_]+\.[A-Z_]+`[^|]*) \| ([^|]+) \|", BALANCE, re.MULTILINE)
"""The rows of the table of limits: which constants, and their values."""

MODULES = ("balance", "census", "election", "group", "registration", "settling")
"""Whose limits belong into it without exception."""


def code_blocks(document: str, language: str) -> list[str]:
    """Return what a document has in its blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


def yaml_blocks(document: str) -> list[Any]:
    """Return what a document has in its YAML blocks."""
    return [yaml.safe_load(block) for block in code_blocks(document, "yaml")]


def figures(module: str, name: str) -> list[float]:
    """Return the number, or numbers, that a constant is."""
    value = getattr(import_module(f"sidecar.{module}"), name)
    return [float(part) for part in (value if isinstance(value, tuple) else (value,))]


def limits_of(module: str) -> set[str]:
    """Return the constants of a module that are numbers, and that it does not have from another one."""
    path = ROOT / f"sidecar/{module}.py"
    named = re.findall(r"^([A-Z][A-Z_]*) = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    values = {name: getattr(import_module(f"sidecar.{module}"), name) for name in named}
    return {name for name, value in values.items() if isinstance(value, int | float | tuple)}


@pytest.mark.parametrize(("names", "cell"), LIMITS, ids=[names for names, _ in LIMITS])
def test_a_limit_in_the_page_is_the_codes(names: str, cell: str) -> None:
    """The figures in the table of limits are the constants that it names."""
    told = [float(text.replace(",", "")) for text in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", cell)]
    unit = 2**20 if "MiB" in cell else 1
    constants = re.findall(r"`([a-z_]+)\.([A-Z_]+)`", names)
    assert [number * unit for number in told] == [number for constant in constants for number in figures(*constant)]


@pytest.mark.parametrize("module", MODULES)
def test_no_limit_of_the_balance_is_left_out(module: str) -> None:
    """The table of limits has every number that one of these modules declares."""
    told = {
        name for names, _ in LIMITS for where, name in re.findall(r"`([a-z_]+)\.([A-Z_]+)`", names) if where == module
    }
    assert limits_of(module) - told == set()


def test_what_the_page_names_exists() -> None:
    """Every constant that the page mentions stands in its table, and every variable is one."""
    constants = {name for names, _ in LIMITS for name in re.findall(r"\.([A-Z_]+)`", names)}
    variables = {option.variable for option in settings.TABLE}
    named = set(re.findall(r"`([A-Z_]*_[A-Z_]+)(?:=[a-z]+)?`", BALANCE))
    assert named - constants - variables == set()
    assert named & constants
    assert named & variables


def test_the_page_shows_a_nomination_as_it_is_written() -> None:
    """The lock object in the page is one that the code could have written, to the byte, and reads as the page says."""
    metadata = yaml_blocks(BALANCE)[0]["metadata"]
    annotations = metadata["annotations"]
    registered = registrations(annotations)
    claim = parse_claim(annotations[CLAIM_ANNOTATION])
    assert metadata["labels"] == {GROUP_LABEL: "default"}
    assert set(annotations) == {RECORD_ANNOTATION, CLAIM_ANNOTATION, LOOK_ANNOTATION, *registered}
    assert_as_written(annotations)
    assert {key: one.encode() for key, one in registered.items()} == {key: annotations[key] for key in registered}
    assert claim is not None
    assert registered[registration_key(claim.holder)].pod_uid == claim.pod_uid
    assert registered[registration_key(claim.successor)].accepted > claim.term
    (election,) = take_census([LockSeen("default/store", 4891, annotations)], {}).elections
    assert (election.node, set(election.nodes), election.movable) == ("node-b", {"node-a", "node-b"}, True)


def test_the_page_shows_a_release_as_it_is_written() -> None:
    """So is the released one, and it counts where the successor is."""
    nomination, release = yaml_blocks(BALANCE)[:2]
    annotations = {**nomination["metadata"]["annotations"], **release}
    assert_as_written(annotations)
    (election,) = take_census([LockSeen("default/store", 4892, annotations)], {}).elections
    assert (election.node, election.moves) == ("node-a", True)


def assert_as_written(annotations: dict[str, str]) -> None:
    """Check that record and claim are valid, belong together, and are written just so."""
    record, claim = parse_record(annotations[RECORD_ANNOTATION]), parse_claim(annotations[CLAIM_ANNOTATION])
    assert isinstance(record, Record)
    assert isinstance(claim, Claim)
    assert record.encode() == annotations[RECORD_ANNOTATION]
    assert claim.encode() == annotations[CLAIM_ANNOTATION]
    assert record.holder == claim.holder


# -- docs/safety.md ----------------------------------------------------------------------------------------------------


def test_the_fenced_store_refuses_a_deposed_leader(tmp_path: Path) -> None:
    """The example does what it is there for: what comes with a smaller token than the greatest is not written."""
    (block,) = code_blocks(SAFETY, "python")
    example: dict[str, Any] = {}
    exec(block, example)  # noqa: S102 - the page's own example
    status = tmp_path / "status"
    status.write_text(json.dumps({"fencing_token": 41}))
    deposed = example["token_of"](status.as_uri())
    store = example["open_store"](str(tmp_path / "store"))
    try:
        assert example["put"](store, deposed, "key", "first")
        assert example["put"](store, deposed, "key", "second")
        assert example["put"](store, deposed + 1, "key", "its successor's")
        assert not example["put"](store, deposed, "key", "too late")
        assert store.execute("SELECT value FROM data").fetchall() == [("its successor's",)]
    finally:
        store.close()
    assert example["token_of"](status.as_uri()) == 41


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(_[a-z_]+)`", SAFETY))))
def test_the_places_to_check_are_there(name: str) -> None:
    """Every function that the argument for safety names is one of the election's, or of the pair of locks."""
    assert callable(getattr(election, name, None) or getattr(pairlock, name))
