"""A short storm of random faults; `python -m tests.store.storm` plays longer ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.history import Kind, Outcome
from tests.store.storm import RECOVERY_SECONDS, play

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.election

SECONDS, SEED = 10.0, 1


@pytest.mark.timeout(SECONDS + 4 * RECOVERY_SECONDS)
async def test_whatever_happens_at_random_breaks_no_promise(tmp_path: Path) -> None:
    """Kills, stops, cuts and lost volumes at random: nothing is lost or comes back, and everything recovers."""
    history, wrong = await play(tmp_path, seed=SEED, seconds=SECONDS)
    assert wrong == [], f"in {history.summary()}; all of it: {tmp_path}"
    # A history of nothing would be sound as well.
    assert history.acknowledged()
    assert any(one.kind is Kind.CONSISTENT_GET and one.outcome is Outcome.DONE for one in history.operations)
