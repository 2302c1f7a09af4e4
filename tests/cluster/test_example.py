"""The example, applied as it stands, and what becomes of a leadership when its pod is deleted."""

from __future__ import annotations

import asyncio
import json
import math
import time
from contextlib import asynccontextmanager
from statistics import median
from typing import TYPE_CHECKING

from tests.cluster.manifests import EXAMPLE, MAIN, SIDECAR, Application, Image
from tests.cluster.observer import observing
from tests.cluster.stage import LONG_LEASE, Stage, staged
from tests.cluster.terms import gaps
from tests.testbed import image
from tests.testbed.sidecar import until
from tests.testbed.standins import CURL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.cluster.opening import Ground

EXAMPLES, ELECTION = "example", "example-leader"
"""The example's application, as its pods name it, and its election."""

HAND_OVERS = 3

LAST_WORDS = """\
last_words() {
  sleep 1
  echo "$(cut -d' ' -f1 /proc/uptime) $(curl -s -m 10 localhost:4040)" > /dev/termination-log
  exit 0
}
trap last_words TERM
while true; do sleep 3600 & wait $!; done
"""
"""A main container that takes a second to end, and tells in its pod's status when, and whom its sidecar names then."""


async def is_there(ground: Ground) -> bool:
    """Tell whether somebody else has applied the example, or a part of it."""
    get = ("get", f"--kustomize={EXAMPLE}", "--ignore-not-found", "--output=name")
    return bool(await asyncio.to_thread(ground.cluster.kubectl, *get))


@asynccontextmanager
async def applied(ground: Ground) -> AsyncIterator[Stage]:
    """Apply the example as its users do, in the namespace `default`.

    In one of its own where that would be in the way: on a cluster that is not ours, and where something of the example
    is there already; and with another image.
    """
    as_it_stands = Image(name=image.name(), pull_policy="IfNotPresent", curl=CURL)
    if ground.cluster.given or ground.image != as_it_stands or await is_there(ground):
        async with staged(ground) as stage:
            await stage.apply_example()
            yield stage
        return
    async with observing(ground.cluster, "default") as seen:
        stage = Stage(ground=ground, namespace="default", seen=seen)
        try:
            await stage.kubectl("apply", "--kustomize", str(EXAMPLE))
            yield stage
            assert seen.at_once() == []
        finally:
            await stage.kubectl("delete", "--kustomize", str(EXAMPLE))
            await until(lambda: not seen.living(EXAMPLES), "all pods are gone", seconds=60)
            await stage.kubectl("delete", "endpoints", ELECTION, "--ignore-not-found")


async def test_the_example_elects(ground: Ground) -> None:
    """Every pod gets ready; every main container sees the same leader on localhost, and logs what it sees."""
    async with applied(ground) as stage:
        pods = await stage.seen.ready(3, EXAMPLES)
        leader = await stage.seen.agreed(ELECTION, pods)
        for pod in pods:
            told = await stage.kubectl("exec", pod.name, f"--container={MAIN}", "--", "curl", "-s", "localhost:4040")
            assert json.loads(told) == {"name": leader.name}
            expected = f'{{"name":"{leader.name}"}}' + (": I lead" if pod is leader else "")

            async def logged(pod: str = pod.name, expected: str = expected) -> bool:
                lines = await stage.kubectl("logs", pod, f"--container={MAIN}", "--tail=1")
                return lines.strip() == expected

            await until(logged, f"the main container of {pod.name} logs {expected}", every=0.2)


async def test_the_leaders_pod_is_deleted(stage: Stage, figure: Callable[[str, float], None]) -> None:
    """It leads until its main container has ended; then its sidecar releases, and another leads in under a second.

    This is done three times; in the median it is under a second, less what the observer itself was late, so that one
    pod that a busy machine holds up breaks nothing. Nobody is in time by chance: the lease is long, and the pod that is
    made in place of the deleted one, which leads if it finds the lock free, does not count.
    """
    application = Application(name="store", parallel=True, script=LAST_WORDS, ttl=LONG_LEASE)
    await stage.apply(application)
    found = [await delete_the_leaders_pod(stage, application, figure) for _ in range(HAND_OVERS)]
    assert len(stage.seen.terms(application.election)) == HAND_OVERS + 1
    assert median(found) < 1


async def delete_the_leaders_pod(stage: Stage, application: Application, figure: Callable[[str, float], None]) -> float:
    """Check that the pod ends in order; return the seconds until a follower led, infinite if a new pod did instead."""
    old = await stage.led(application)
    followers = {pod.uid for pod in stage.seen.living(application.name)} - {old.uid}
    deleted = time.monotonic()
    await stage.kubectl("delete", "pod", old.name, "--wait=false")
    await stage.seen.led(application.election, since=deleted)
    await until(lambda: old.deleted, f"{old.label} is gone")

    ended, _, answer = old.container(MAIN)["state"]["terminated"]["message"].partition(" ")
    assert json.loads(answer) == {"name": old.name}
    assert old.container(SIDECAR)["state"]["terminated"]["exitCode"] == 0
    first, second = stage.seen.terms(application.election)[-2:]
    assert (first.pod_uid, first.released) == (old.uid, True)
    figure("without a leader, whose pod was deleted", *gaps([first, second]))
    if not stage.cluster.given:  # whose nodes have clocks of their own
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        figure("from the end of its main container to the next leader", second.began + since_boot - float(ended))
    return stage.seen.gaps_on_time(application.election)[-1] if second.pod_uid in followers else math.inf
