"""The simulation finds bugs: each of these breaks one rule of the store, and clients see it within a few seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from store.leader import Leader
from store.log import Log
from store.replica import Replica

from tests.store.simulated import StuckError, play

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SEEDS = 40


def without_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a new volume count at once, without asking what the lost one had promised and acknowledged."""
    opened = Log.__init__

    def counting(self: Log, folder: Path, *, kept: int) -> None:
        opened(self, folder, kept=kept)
        self.recovered = self.member = True

    monkeypatch.setattr(Log, "__init__", counting)


def without_catching_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a leader begin with the log that it has, though another one's is longer."""

    async def copied(*_: object) -> bool:
        return True

    monkeypatch.setattr(Leader, "_copied", copied)


def without_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a leader answer a consistent read without asking whether it still leads."""

    async def confirm(_: Leader) -> None:
        pass

    monkeypatch.setattr(Leader, "confirm", confirm)


def without_a_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one replica fewer be enough for whatever takes a majority."""
    made = Replica.__init__

    def content(self: Replica, *given: Any, **named: Any) -> None:  # noqa: ANN401 - as it is made
        made(self, *given, **named)
        self.majority -= 1

    monkeypatch.setattr(Replica, "__init__", content)


PLANTS: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    plant.__name__.replace("_", "-"): plant
    for plant in (without_recovery, without_catching_up, without_confirmation, without_a_majority)
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_bug_is_found(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge finds something wrong with what clients saw."""
    PLANTS[plant](monkeypatch)
    assert any(map(_is_wrong, range(SEEDS)))


def _is_wrong(seed: int) -> bool:
    try:
        return bool(play(seed)[1])
    except StuckError:
        return False
