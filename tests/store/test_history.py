"""The judge of the store's histories sees each thing that must not be, and not what only looks like it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from tests.store.history import Finding, History, Kind, Operation, Outcome, Seen, Wrong, check

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

UNKNOWN = Outcome.UNKNOWN
REFUSED = Outcome.REFUSED


def _write(kind: Kind, span: tuple[float, float], told: int | Outcome, **about: Any) -> Operation:  # noqa: ANN401 - what an operation has
    outcome = told if isinstance(told, Outcome) else Outcome.DONE
    if outcome is Outcome.DONE:
        about["sequence"] = told
    else:
        del about["token"]
    return Operation(client="writer", kind=kind, invoked=span[0], returned=span[1], outcome=outcome, **about)


def put(value: str, begin: float, end: float, told: int | Outcome, *, token: int = 7, key: str = "k") -> Operation:
    """Return a write: acknowledged with a sequence number, or with another outcome."""
    return _write(Kind.PUT, (begin, end), told, key=key, value=value, token=token)


def delete(begin: float, end: float, told: int | Outcome, *, token: int = 7, key: str = "k") -> Operation:
    """Return a delete: acknowledged with a sequence number, or with another outcome."""
    return _write(Kind.DELETE, (begin, end), told, key=key, token=token)


def read(
    value: str | None, sequence: int | None, begin: float, end: float, *, at: str | None = None, key: str = "k"
) -> Operation:
    """Return a consistent read; with `at`, a plain one that this replica answered."""
    return Operation(
        client="reader",
        kind=Kind.GET if at else Kind.CONSISTENT_GET,
        key=key,
        value=value,
        sequence=sequence,
        invoked=begin,
        returned=end,
        outcome=Outcome.DONE,
        replica=at,
    )


def found(*operations: Operation, final: dict[str, dict[str, Seen]] | None = None) -> list[Wrong]:
    """Return the kinds of what is wrong with a history."""
    history = History(operations)
    history.final.update(final or {})
    return [finding.wrong for finding in check(history)]


def everywhere(**held: Seen) -> dict[str, dict[str, Seen]]:
    """Return that three replicas hold the same."""
    return {f"store-{number}": dict(held) for number in range(3)}


def test_a_sound_history_is_sound() -> None:
    """Writes in order, reads of what was written last, and the same everywhere in the end."""
    operations = (
        put("a", 0, 1, 1),
        read("a", 1, 2, 3),
        put("b", 4, 5, 2, token=9),
        read("b", 2, 6, 7, at="store-1"),
        delete(8, 9, 4, token=9),
        read(None, None, 10, 11),
        put("c", 12, 13, 5, token=9, key="other"),
    )
    assert found(*operations, final=everywhere(k=Seen(), other=Seen("c", 5))) == []


def test_nothing_at_all_is_sound() -> None:
    """Without operations there is nothing to find, and a key that nobody ever wrote has no value."""
    assert found() == []
    assert found(read(None, None, 0, 1), read(None, None, 2, 3, at="store-0")) == []


# Each of these has one thing wrong. Its near miss differs in as little as makes it right.
CASES: dict[str, tuple[Wrong, Sequence[Operation], Sequence[Operation]]] = {
    "a value is gone, and nobody deleted it": (
        Wrong.LOST,
        [put("a", 0, 1, 1), read(None, None, 2, 3)],
        [put("a", 0, 1, 1), delete(2, 3, 2), read(None, None, 2.5, 4)],
    ),
    "a value is gone before anybody asked for the delete": (
        Wrong.LOST,
        [put("a", 0, 1, 1), read(None, None, 2, 3), delete(4, 5, 2)],
        [put("a", 0, 1, 1), read(None, None, 2, 4.5), delete(4, 5, 2)],
    ),
    "a value is gone, and the delete was of an earlier one": (
        Wrong.LOST,
        [put("a", 0, 1, 1), delete(2, 3, 2), put("b", 4, 5, 3), read(None, None, 6, 7)],
        [put("a", 0, 1, 1), delete(2, 3, 2), put("b", 4, 6.5, 3), read(None, None, 6, 7)],
    ),
    "a value is gone, and the delete was refused": (
        Wrong.LOST,
        [put("a", 0, 1, 1), delete(2, 3, REFUSED), read(None, None, 4, 5)],
        [put("a", 0, 1, 1), delete(2, 3, UNKNOWN), read(None, None, 4, 5)],
    ),
    "one delete of unknown outcome took two values": (
        Wrong.LOST,
        [
            put("a", 0, 1, 1),
            delete(2, 3, UNKNOWN),
            read(None, None, 4, 5),
            put("b", 6, 7, 3),
            read(None, None, 8, 9),
        ],
        [
            put("a", 0, 1, 1),
            delete(2, 3, UNKNOWN),
            delete(2, 3, UNKNOWN),
            read(None, None, 4, 5),
            put("b", 6, 7, 3),
            read(None, None, 8, 9),
            read(None, None, 10, 11),
        ],
    ),
    "a replica showed a value and then none": (
        Wrong.LOST,
        [put("a", 0, 1, UNKNOWN), read("a", 1, 2, 3, at="s"), read(None, None, 4, 5, at="s")],
        [put("a", 0, 1, UNKNOWN), read("a", 1, 2, 3, at="s"), read(None, None, 4, 5, at="t")],
    ),
    "a value that was read by anybody is gone": (
        Wrong.LOST,
        [put("a", 0, 1, UNKNOWN), read("a", 1, 2, 3, at="s"), read(None, None, 4, 5)],
        [put("a", 0, 1, UNKNOWN), read("a", 1, 2, 4.5, at="s"), read(None, None, 4, 5)],
    ),
    "an overwritten value is read consistently": (
        Wrong.STALE,
        [put("a", 0, 1, 1), put("b", 2, 3, 2), read("a", 1, 4, 5)],
        [put("a", 0, 1, 1), put("b", 2, 3, 2), read("a", 1, 3, 5)],
    ),
    "a deleted value is back": (
        Wrong.RESURRECTED,
        [put("a", 0, 1, 1), delete(2, 3, 2), read("a", 1, 4, 5)],
        [put("a", 0, 1, 1), delete(2, 3, 2), read("a", 1, 4, 5, at="s")],
    ),
    "consistent reads go back": (
        Wrong.RESURRECTED,
        [put("a", 0, 1, 1), put("b", 0, 9, 2), read("b", 2, 2, 3), read("a", 1, 4, 5)],
        [put("a", 0, 1, 1), put("b", 0, 9, 2), read("b", 2, 2, 3), read("a", 1, 3, 5)],
    ),
    "a consistent read goes back behind a plain one": (
        Wrong.RESURRECTED,
        [put("a", 0, 1, 1), put("b", 0, 9, UNKNOWN), read("b", 2, 2, 3, at="s"), read("a", 1, 4, 5)],
        [put("a", 0, 1, 1), put("b", 0, 9, UNKNOWN), read("a", 1, 2, 3), read("b", 2, 4, 5, at="s")],
    ),
    "a replica goes back": (
        Wrong.RESURRECTED,
        [put("a", 0, 1, 1), put("b", 0, 1, 2), read("b", 2, 2, 3, at="s"), read("a", 1, 4, 5, at="s")],
        [put("a", 0, 1, 1), put("b", 0, 1, 2), read("b", 2, 2, 3, at="s"), read("a", 1, 4, 5, at="s again")],
    ),
    "a replica goes back behind a delete whose outcome is unknown": (
        Wrong.RESURRECTED,
        [
            put("a", 0, 1, 1),
            delete(2, 3, UNKNOWN),
            read("a", 1, 2, 3, at="s"),
            read(None, None, 4, 5, at="s"),
            read("a", 1, 6, 7, at="s"),
        ],
        [
            put("a", 0, 1, 1),
            delete(2, 3, UNKNOWN),
            read(None, None, 2, 3, at="s"),
            read("a", 1, 6, 7, at="s"),
            read(None, None, 8, 9, at="s"),
        ],
    ),
    "a value is back that a delete of unknown outcome took": (
        Wrong.RESURRECTED,
        [put("a", 0, 1, 1), delete(2, 3, UNKNOWN), read(None, None, 4, 5), read("a", 1, 6, 7)],
        [put("a", 0, 1, 1), delete(2, 3, UNKNOWN), read("a", 1, 4, 5), read(None, None, 6, 7)],
    ),
    "a refused value is read": (
        Wrong.REFUSED,
        [put("a", 0, 1, REFUSED), read("a", 1, 2, 3, at="s")],
        [put("a", 0, 1, UNKNOWN), read("a", 1, 2, 3, at="s")],
    ),
    "nobody wrote what is read": (
        Wrong.PHANTOM,
        [read("a", 1, 2, 3, at="s")],
        [put("a", 0, 9, 1), read("a", 1, 2, 3, at="s")],
    ),
    "a value is read at another key": (
        Wrong.PHANTOM,
        [put("a", 0, 1, UNKNOWN), read("a", 1, 2, 3, key="other")],
        [put("a", 0, 1, UNKNOWN, key="other"), read("a", 1, 2, 3, key="other")],
    ),
    "a value is read before it is written": (
        Wrong.PHANTOM,
        [put("a", 4, 5, UNKNOWN), read("a", 1, 2, 3, at="s")],
        [put("a", 2.5, 5, UNKNOWN), read("a", 1, 2, 3, at="s")],
    ),
    "two writes have one sequence number": (
        Wrong.SEQUENCE,
        [put("a", 0, 1, 1), put("b", 0, 1, 1, key="other")],
        [put("a", 0, 1, 1), put("b", 0, 1, 2, key="other")],
    ),
    "two deletes have one sequence number": (
        Wrong.SEQUENCE,
        [delete(0, 1, 1), delete(0, 1, 1)],
        [delete(0, 1, 1), delete(0, 1, 2)],
    ),
    "a write has the sequence number of one that was read": (
        Wrong.SEQUENCE,
        [put("a", 0, 9, UNKNOWN), read("a", 1, 2, 3, at="s"), put("b", 1, 4, 1)],
        [put("a", 0, 9, UNKNOWN), read("a", 1, 2, 3, at="s"), put("b", 1, 4, 2)],
    ),
    "a value is read with another sequence number than was acknowledged": (
        Wrong.SEQUENCE,
        [put("a", 0, 1, 1), read("a", 2, 2, 3)],
        [put("a", 0, 1, 2), read("a", 2, 2, 3)],
    ),
    "a write of unknown outcome is stored twice": (
        Wrong.SEQUENCE,
        [put("a", 0, 1, UNKNOWN), read("a", 1, 2, 3, at="s"), read("a", 2, 4, 5, at="s")],
        [put("a", 0, 1, UNKNOWN), read("a", 1, 2, 3, at="s"), read("a", 1, 4, 5, at="s")],
    ),
    "a value has no sequence number": (
        Wrong.SEQUENCE,
        [put("a", 0, 1, UNKNOWN), read("a", None, 2, 3)],
        [put("a", 0, 1, UNKNOWN), read(None, None, 2, 3)],
    ),
    "a later write has a smaller sequence number": (
        Wrong.ORDER,
        [put("a", 0, 1, 2), put("b", 2, 3, 1, key="other")],
        [put("a", 0, 1, 2), put("b", 0.5, 3, 1, key="other")],
    ),
    "a write has a smaller sequence number than was read before it": (
        Wrong.ORDER,
        [put("a", 0, 9, UNKNOWN), read("a", 2, 2, 3, at="s"), put("b", 4, 5, 1, key="other")],
        [put("a", 0, 9, UNKNOWN), read("a", 2, 2, 4.5, at="s"), put("b", 4, 5, 1, key="other")],
    ),
    "a write of unknown outcome is read with too small a number": (
        Wrong.ORDER,
        [put("a", 0, 1, 2), put("b", 2, 3, UNKNOWN, key="other"), read("b", 1, 4, 5, at="s", key="other")],
        [put("a", 0, 1, 2), put("b", 1, 3, UNKNOWN, key="other"), read("b", 1, 4, 5, at="s", key="other")],
    ),
    "a token falls": (
        Wrong.TOKEN,
        [put("a", 0, 9, 1, token=7), put("b", 0, 9, 2, token=6), put("c", 0, 9, 3, token=7)],
        [put("a", 0, 9, 1, token=6), put("b", 0, 9, 2, token=6), put("c", 0, 9, 3, token=7)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_found(name: str) -> None:
    """Each kind of thing that must not be is found, once, and as what it is."""
    wrong, bad, _ = CASES[name]
    assert found(*bad) == [wrong]
    assert found(*bad[::-1]) == [wrong]


@pytest.mark.parametrize("name", CASES)
def test_what_only_looks_like_it_is_not_found(name: str) -> None:
    """The near miss of each of them is sound."""
    _, _, good = CASES[name]
    assert found(*good) == []
    assert found(*good[::-1]) == []


def test_every_kind_of_finding_has_a_history_that_shows_it() -> None:
    """A kind that no history here shows could never be found, for all that is known; the last kind has its own test."""
    assert {wrong for wrong, _, _ in CASES.values()} == {*Wrong} - {Wrong.DIVERGED}


def test_replicas_that_differ_in_the_end_are_found() -> None:
    """Replicas must hold the same in the end, absence included; those are named that do not."""
    final = everywhere(k=Seen("a", 1))
    final["store-2"] = {}
    history = History([put("a", 0, 1, 1)])
    history.final = final
    diverged, lost = sorted(check(history), key=lambda finding: finding.wrong)
    assert diverged == Finding(
        Wrong.DIVERGED, "k: store-0 a (sequence 1), store-1 a (sequence 1), store-2 None (sequence None)"
    )
    assert lost.wrong is Wrong.LOST
    assert "store-2" in lost.text


@pytest.mark.parametrize(
    ("operations", "held", "wrong"),
    [
        pytest.param([put("a", 0, 1, 1)], Seen("a", 1), [], id="the last write"),
        pytest.param([put("a", 0, 1, 1)], Seen(), [Wrong.LOST], id="nothing"),
        pytest.param([put("a", 0, 1, 1), put("b", 2, 3, 2)], Seen("a", 1), [Wrong.LOST], id="the write before"),
        pytest.param([put("a", 0, 1, 1), put("b", 0, 3, 2)], Seen("b", 2), [], id="the last of concurrent ones"),
        pytest.param([put("a", 0, 1, 1), delete(2, 3, 2)], Seen(), [], id="deleted"),
        pytest.param([put("a", 0, 1, 1), delete(2, 3, 2)], Seen("a", 1), [Wrong.RESURRECTED], id="back"),
        pytest.param([put("a", 0, 1, 1), put("b", 2, 3, UNKNOWN)], Seen("b", 2), [], id="unknown, stored"),
        pytest.param([put("a", 0, 1, 1), put("b", 2, 3, UNKNOWN)], Seen("a", 1), [], id="unknown, not stored"),
        pytest.param([put("a", 0, 1, UNKNOWN), put("b", 2, 3, 2)], Seen("a", 3), [], id="unknown, stored late"),
        pytest.param([put("a", 0, 1, 1), delete(2, 3, UNKNOWN)], Seen(), [], id="unknown delete, done"),
        pytest.param([put("a", 0, 1, 1), delete(2, 3, UNKNOWN)], Seen("a", 1), [], id="unknown delete, not done"),
        pytest.param([put("a", 0, 1, 1), put("b", 2, 3, REFUSED)], Seen("b", 2), [Wrong.REFUSED] * 3, id="refused"),
        pytest.param([put("a", 0, 1, 1)], Seen("x", 2), [Wrong.PHANTOM] * 3, id="nobody's"),
    ],
)
def test_the_end_is_the_last_write(operations: list[Operation], held: Seen, wrong: list[Wrong]) -> None:
    """What all replicas hold of a key in the end is its last write by sequence number, or one of unknown outcome."""
    expected = wrong * 3 if len(wrong) == 1 else wrong
    assert found(*operations, final=everywhere(k=held)) == expected


def test_a_key_that_no_replica_holds_is_missed_as_well() -> None:
    """A key that was written, and of which no replica says anything in the end, is lost."""
    assert found(put("a", 0, 1, 1), final=everywhere()) == [Wrong.LOST] * 3


def test_where_nobody_looked_at_the_end_nothing_is_said_of_it() -> None:
    """A history without an end is judged by its operations alone."""
    assert found(put("a", 0, 1, 1)) == []


def test_many_absences_in_a_row_are_one_delete() -> None:
    """However often a read shows that nothing is there, what is written next may have the very next number."""
    absences = [read(None, None, 10 + step, 10.5 + step) for step in range(20)]
    operations = [put("a", 0, 1, 1), delete(2, 3, UNKNOWN), *absences, delete(2, 99, 9), put("b", 5, 60, 3)]
    assert found(*operations, read("b", 3, 70, 71)) == []


def test_one_delete_of_unknown_outcome_may_come_after_a_concurrent_write() -> None:
    """An absence that is seen while a value is written may be that of the value: one delete explains it and later ones.

    Unless the absence was seen before that value was even asked for.
    """
    operations = [put("a", 0, 1, 3), delete(2, 3, UNKNOWN), read(None, None, 7, 9), read(None, None, 10, 11)]
    late = put("z", 20, 21, 99, key="other")
    assert found(*operations, put("b", 8, 9, 20), late) == []
    assert found(*operations, put("b", 9.1, 9.9, 20), late) == [Wrong.LOST]


def test_reads_that_failed_say_nothing() -> None:
    """A read that was refused or broke off is no evidence of anything."""
    failed = Operation(
        client="reader", kind=Kind.CONSISTENT_GET, key="k", invoked=2, returned=3, outcome=Outcome.UNKNOWN
    )
    assert found(put("a", 0, 1, 1), failed) == []


def test_values_have_to_be_unique() -> None:
    """A history in which two writes have one value is refused: it does not say which of them was read."""
    with pytest.raises(ValueError, match=r"not unique: writer: put k = a \(done, sequence 2"):
        check(History([put("a", 0, 1, 1), put("a", 2, 3, 2)]))
    history = History()
    assert len({history.unique_value() for _ in range(100)} | {History().unique_value()}) == 101


def test_a_finding_says_what_contradicts_what() -> None:
    """A finding names both operations with who, what and when, so that logs can be looked up."""
    (finding,) = check(History([put("a", 0, 1, 1), delete(2, 3, 2), read("a", 1, 4, 5.25)]))
    assert str(finding) == (
        "resurrected: reader: consistent get k = a (done, sequence 1, 4.000 to 5.250 s), "
        "after writer: delete k (done, sequence 2, token 7, 2.000 to 3.000 s)"
    )


def test_a_history_can_be_kept(tmp_path: Path) -> None:
    """What is saved and loaded is the same, and is judged the same."""
    history = History([put("a", 0, 1, 1), put("b", 2, math.inf, UNKNOWN), read(None, None, 4, 5, at="s")])
    history.final = everywhere(k=Seen())
    history.save(tmp_path / "history.jsonl")
    loaded = History.load(tmp_path / "history.jsonl")
    assert loaded.operations == history.operations
    assert loaded.final == history.final
    assert check(loaded) == check(history) != []


def test_a_history_is_summed_up() -> None:
    """How much there is to judge is said in one line, and keys and acknowledged writes are told."""
    history = History([put("a", 0, 1, 1), delete(2, 3, REFUSED, key="other"), read("a", 1, 4, 5)])
    assert history.summary() == "1 reads done, 1 writes done, 1 writes refused"
    assert history.written_keys() == ["k", "other"]
    assert [one.value for one in history.acknowledged()] == ["a"]
    assert history.acknowledged(since=0) == []
