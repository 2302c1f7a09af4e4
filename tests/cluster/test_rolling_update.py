"""Rolling updates: every leader that is replaced gives its leadership up."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from tests.cluster.manifests import Application
from tests.cluster.stage import LONG_LEASE, RETRY_PERIOD
from tests.cluster.terms import gaps

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.stage import Stage


async def test_all_pods_are_replaced(stage: Stage, figure: Callable[[str, float], None]) -> None:
    """One pod after the other is replaced, and however often the leader is among them, another leads at once.

    At once: the median of the gaps is under a second, and each is under the retry period that users have, less what the
    observer itself was late. The lease is so long that no gap ends by chance.
    """
    given = [Application(name=name, parallel=True, ttl=LONG_LEASE) for name in ("store", "queue")]
    await stage.apply(*given)
    for application in given:
        await stage.led(application)
    before = stage.seen.living()
    await stage.kubectl("rollout", "restart", "statefulset")
    for application in given:
        await stage.replaced(application, before)

    led = [stage.seen.terms(application.election) for application in given]
    assert all(len(terms) > 1 for terms in led)
    assert all(term.released for terms in led for term in terms[:-1])
    found = [gap for terms in led for gap in gaps(terms)]
    figure(f"without a leader at most, while all pods were replaced ({len(found)} changes of leader)", max(found))
    figure("without a leader in the median, while all pods were replaced", median(found))
    on_time = [gap for application in given for gap in stage.seen.gaps_on_time(application.election)]
    assert median(on_time) < 1
    assert max(on_time) < RETRY_PERIOD
