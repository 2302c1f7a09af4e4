"""What clients of the simulated store see keeps the store's promise, whatever fails."""

from __future__ import annotations

import pytest

from tests.store.simulated import play

SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_promise_is_kept(seed: int) -> None:
    """Nothing acknowledged is lost, nothing comes back, no consistent read is stale; and in the end all are in step."""
    history, findings = play(seed)
    assert findings == []
    assert history.acknowledged(), "nothing was acknowledged, so nothing was tried"
