"""The judge of a history has to see what is wrong, and nothing else."""

from __future__ import annotations

import pytest

from tests.safety.history import Served, judge, overlapping, unordered


def served(process: str, begin: float, end: float, token: int | None = None, election: str = "example") -> Served:
    """Return a span."""
    return Served(process=process, election=election, begin=begin, end=end, token=token)


def test_one_after_the_other_is_sound() -> None:
    """Terms that follow each other, with tokens that grow, are as it should be."""
    assert judge([served("a", 0, 5, 3), served("b", 5.001, 9, 8), served("a", 9.5, 9.5, 12)]) == []


def test_two_at_once_are_told_with_the_time_that_they_shared() -> None:
    """Two processes that led one election at once are named, with when."""
    (sentence,) = overlapping([served("b", 4, 9), served("a", 0, 5)])
    assert "a led example" in sentence
    assert "b led example" in sentence
    assert sentence.endswith("both from 4.000 to 5.000 s")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param((0, 9), (3, 4), id="within"),
        pytest.param((0, 5), (5, 9), id="at one instant"),
        pytest.param((2, 2), (2, 2), id="two instants"),
        pytest.param((0, 9), (0, 9), id="the same"),
    ],
)
def test_however_two_spans_share_an_instant_it_is_seen(one: tuple[float, float], other: tuple[float, float]) -> None:
    """A span holds both of its ends, so one shared instant is enough; the order of the spans does not matter."""
    spans = [served("a", *one), served("b", *other)]
    assert len(overlapping(spans)) == 1
    assert len(overlapping(spans[::-1])) == 1


def test_a_long_span_is_compared_with_all_that_begin_within_it() -> None:
    """A short span in between does not hide a long one from what comes later."""
    spans = [served("a", 0, 100), served("b", 1, 2), served("c", 50, 51)]
    assert len(overlapping(spans)) == 2


def test_elections_and_processes_are_told_apart() -> None:
    """Different elections may have leaders at once, and a process cannot be its own rival."""
    assert judge([served("a", 0, 5, 3, "one"), served("b", 0, 5, 2, "two"), served("a", 4, 6, 3, "one")]) == []


@pytest.mark.parametrize("token", [3, 2, 0])
def test_a_token_that_does_not_grow_is_seen(token: int) -> None:
    """A later term of another process has to have a greater token: neither the same nor a smaller one will do."""
    (sentence,) = unordered([served("a", 0, 5, 3), served("b", 6, 9, token)])
    assert "after a led example with token 3" in sentence


def test_a_term_cannot_be_taken_up_again_after_another() -> None:
    """A process that comes back with its old token, after somebody else led, is as wrong as a stranger with it."""
    spans = [served("a", 0, 5, 3), served("b", 6, 7, 4), served("a", 8, 9, 3)]
    assert len(unordered(spans)) == 1


def test_each_token_is_held_against_the_greatest_so_far() -> None:
    """One token that fell does not lower what the later ones are measured by."""
    spans = [served("a", 0, 1, 9), served("b", 2, 3, 4), served("c", 4, 5, 7)]
    assert len(unordered(spans)) == 2


def test_one_term_may_be_seen_in_pieces() -> None:
    """Several spans of one process with one token are one term, seen with gaps."""
    assert judge([served("a", 0, 1, 3), served("a", 2, 3, 3), served("b", 4, 5, 6)]) == []


def test_unknown_tokens_are_passed_over() -> None:
    """Where a token is not known, nothing can be said of it; what is known is still compared."""
    spans = [served("a", 0, 1, 5), served("b", 2, 3), served("c", 4, 5, 4)]
    assert len(judge(spans)) == 1


def test_a_span_that_ends_before_it_begins_proves_nothing() -> None:
    """Such a span is refused with its process and election named, rather than taken for an overlap with nobody."""
    with pytest.raises(ValueError, match=r"a cannot have led example from 2 to 1"):
        served("a", 2, 1)
