"""The leaders of many StatefulSets end up evenly spread over real nodes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.cluster.trials import trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.opening import Ground

TRIALS = int(os.environ.get("LEADER_ELECTOR_TEST_TRIALS", "1"))


@pytest.mark.parametrize("number", range(1, TRIALS + 1))
async def test_leaders_are_spread_evenly(ground: Ground, number: int, figure: Callable[[str, float], None]) -> None:
    """5 StatefulSets of 5 replicas end 2 : 2 : 1: their pods started in order, at once, and a node lost and back."""
    outcomes = await trial(ground, number)
    for one in outcomes:
        figure(f"from the last candidate to the last change, {one.pods}, {one.end}", one.settled)
    assert [one for one in outcomes if not one.balanced] == []
    if not ground.cluster.given:
        assert {one.ratio for one in outcomes} == {"2 : 2 : 1"}
