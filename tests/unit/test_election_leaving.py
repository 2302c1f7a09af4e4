"""How a candidate ends: it stops leading first, and gives up only what is still its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.election import Changed, Conflicted, Deleted, Failed, Fetched, Leave, Leaving, Read, Wait, Write, Written
from tests.unit.player import DEADLINE, RETRY, Player, follower, held, leader, lock, released, result

if TYPE_CHECKING:
    from sidecar.record import Snapshot


def test_revokes_before_it_asks_anything() -> None:
    """With the order to leave, leadership is over: nothing has to be sent, let alone answered, for that."""
    player = leader()
    player.happens(Leaving(), at=1.0)
    assert not player.leads
    assert player.names == ""
    assert player.state.note == "stopped leading: leaving"


def test_reads_releases_and_goes() -> None:
    """What is held is read, released in the place of what was read, and then the process ends."""
    player = leader()
    observed = player.state.observed
    assert observed is not None
    player.happens(Leaving(), at=1.0)
    player.reads(observed.snapshot)
    write = player.does(Write)
    assert write.base == observed.snapshot
    assert write.record.holder == ""
    player.happens(Written(result(write, 2), player.now))
    player.does(Leave)
    assert not player.leads


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(None, id="gone"),
        pytest.param(held(2), id="taken-over"),
        pytest.param(released(2), id="released"),
        pytest.param(lock(2, None), id="stripped"),
        pytest.param(lock(2, "?"), id="damaged"),
        pytest.param(held(2, "a", uid="uid-elsewhere", renewed=1), id="my-name-in-another-pod"),
        pytest.param(held(2, "a", renewed=1), id="my-name-without-claim"),
    ],
)
def test_releases_only_what_is_still_mine(found: Snapshot | None) -> None:
    """If the read shows anything but my own record, nothing is written."""
    player = leader()
    player.happens(Leaving(), at=1.0)
    player.reads(found)
    player.does(Leave)


def test_nothing_held_is_nothing_asked() -> None:
    """A follower goes without a request, and so does a candidate that has not seen the lock yet."""
    player = follower(held(5))
    player.happens(Leaving(), at=1.0)
    player.does(Leave)
    player = Player()
    player.happens(Leaving(), at=0.0)
    player.does(Leave)


@pytest.mark.parametrize("player", [Player(), follower(held(5))], ids=["at-first", "follower"])
def test_read_that_fails_on_the_way_out_is_not_repeated(player: Player) -> None:
    """Where nothing can be held, nothing has to be known: no back-off and no read hold up the end."""
    player.happens(Leaving(), at=1.0)
    player.happens(Failed())
    player.does(Leave)


def test_former_leader_asks_nothing() -> None:
    """Whoever saw another lead after itself holds nothing any more."""
    player = leader()
    player.sees(held(2), at=1.0)
    player.happens(Leaving(), at=2.0)
    player.does(Leave)


def test_conflict_on_the_release_is_read_again() -> None:
    """Somebody touched the object between read and release: it is read again, and released if it is still mine."""
    player = leader()
    observed = player.state.observed
    assert observed is not None
    player.happens(Leaving(), at=1.0)
    player.reads(observed.snapshot)
    player.does(Write)
    player.happens(Conflicted())
    player.now = player.does(Wait).until
    touched = held(3, "a", uid="uid-a")
    player.reads(touched)
    write = player.does(Write)
    assert write.base is touched
    assert write.record.holder == ""


def test_lost_answer_to_the_release_is_settled_by_reading() -> None:
    """The release was applied and its answer lost: the read shows it, and nothing more is written."""
    player = leader()
    observed = player.state.observed
    assert observed is not None
    player.happens(Leaving(), at=1.0)
    player.reads(observed.snapshot)
    write = player.does(Write)
    player.happens(Failed(), at=2.0)
    player.now = player.does(Wait).until
    player.reads(result(write, 2))
    player.does(Leave)


def test_renewal_under_way_gives_no_leadership() -> None:
    """A renewal that is answered after the order to leave makes no leader; what it wrote is read and released."""
    player = leader()
    write = player.does(Write, at=RETRY)
    player.happens(Leaving(), at=RETRY + 0.1)
    player.happens(Written(result(write, 2), RETRY), at=RETRY + 0.2)
    assert not player.leads
    player.reads(result(write, 2))
    assert player.does(Write).record.holder == ""


def test_bid_under_way_is_released() -> None:
    """A first bid that is answered after the order to leave makes no leader, and is given up."""
    player = Player()
    player.reads(None)
    write = player.does(Write)
    player.happens(Leaving(), at=0.1)
    player.happens(Written(result(write, 1), 0.0), at=0.2)
    assert not player.leads
    player.reads(result(write, 1))
    assert player.does(Write).record.holder == ""


def test_bid_of_unknown_outcome_is_settled_before_leaving() -> None:
    """A bid that got no answer may have been applied: it is read, and released if so."""
    player = Player()
    player.reads(None)
    write = player.does(Write)
    player.happens(Failed(), at=1.0)
    player.happens(Leaving(), at=1.0)
    player.reads(result(write, 1))
    assert player.does(Write).record.holder == ""


def test_read_under_way_gives_no_leadership() -> None:
    """A read that is answered after the order to leave starts nothing."""
    player = Player()
    player.does(Read)
    player.happens(Leaving(), at=0.1)
    player.happens(Fetched(None, 0.0), at=0.2)
    player.does(Leave)


def test_news_while_leaving_is_believed() -> None:
    """The watch shows that another took over, or that the object is gone, while the release is being prepared."""
    player = leader()
    player.happens(Leaving(), at=1.0)
    player.happens(Changed(held(2)), at=1.1)
    player.does(Leave)
    player = leader()
    player.happens(Leaving(), at=1.0)
    player.happens(Deleted(2), at=1.1)
    player.reads(None)
    player.does(Leave)


def test_back_off_does_not_hold_up_leaving() -> None:
    """A candidate that is backing off when it is told to leave does not wait any longer."""
    player = leader()
    player.does(Write, at=RETRY)
    player.happens(Failed(refused=True, retry_after=60.0))
    player.does(Wait)
    player.happens(Leaving(), at=RETRY + 0.1)
    player.does(Read)


def test_never_leads_again() -> None:
    """Nothing that happens after the order to leave makes a leader, however long it goes on."""
    player = leader()
    player.happens(Leaving(), at=1.0)
    for version in range(2, 50):
        player.sees(released(version), at=player.now + DEADLINE)
        player.reads(released(version)) if player.state.must_read else player.does(Leave)
        assert not player.leads
