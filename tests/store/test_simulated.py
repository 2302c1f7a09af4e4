"""What clients of the simulated store see keeps the store's promise, whatever fails."""

from __future__ import annotations

import pytest

from tests.store.simulated import play

PARTS, SEEDS = 4, 10


@pytest.mark.parametrize("part", range(PARTS))
def test_the_promise_is_kept(part: int) -> None:
    """Nothing acknowledged is lost, nothing comes back, no consistent read is stale; and in the end all are in step."""
    acknowledged = 0
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        history, findings = play(seed)
        assert findings == [], f"seed {seed}"
        acknowledged += len(history.acknowledged())
    assert acknowledged > SEEDS
