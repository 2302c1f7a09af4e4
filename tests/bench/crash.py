"""Vacancies after a crash: leaders that are killed where the only heir is on the least, or the most, loaded node.

Each takes place in a group of its own: five elections led on one node, one on another, and the one that loses its
leader, on a third. A candidate on the second node dies with it: it is still registered there, and who bids has to
leave it the time to do so first. The heir, who alone is left, is on the node with five leaders, or on the third.
"""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.lab.placement import Pod
from tests.bench.candidates import CandidateError
from tests.bench.holdings import leader
from tests.bench.outcome import Crash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.bench.bed import Bed, Stage
    from tests.bench.holdings import Holding

BUSY, QUIET, SPARE = "node-1", "node-2", "node-3"
BUSY_ELECTIONS = 5
"""More than the quiet node has, by as much as makes a difference to a bid."""
LEADER, HEIR, DYING = "crash-0", "crash-1", "crash-2"
AT_ONCE = 5
"""Groups that are measured at a time, a leader killed in each."""
SETTLE_SECONDS = 8.0
"""In which a group comes to rest, and every follower has seen who leads."""
LOOK_PAUSE = 0.1


@dataclass(slots=True, kw_only=True)
class _Group:
    """One group, and what was seen of it."""

    stage: Stage
    loaded: bool
    killed: float = 0.0

    @property
    def held(self) -> list[Holding]:
        return self.stage.watch.holdings().get("crash", [])

    def is_led(self, elections: Iterable[str]) -> bool:
        """Tell whether all of these have a leader."""
        held = self.stage.watch.holdings()
        return all(leader(held.get(election, [])) for election in elections)


def crashes(
    bed: Bed, trials: int, *, ttl_seconds: float, patience: float, progress: Callable[[str], None]
) -> list[Crash]:
    """Kill so many leaders of each kind. Raises as `Bed.stage`, and CandidateError."""
    kinds = [loaded for _ in range(trials) for loaded in (False, True)]
    found: list[Crash] = []
    for start in range(0, len(kinds), AT_ONCE):
        progress(f"crash {start + 1} of {len(kinds)}")
        with ExitStack() as stack:
            groups = [
                _Group(stage=stack.enter_context(bed.stage(_pods(loaded=loaded), f"crash-{number}")), loaded=loaded)
                for number, loaded in enumerate(kinds[start : start + AT_ONCE], start)
            ]
            _bring_up(groups, patience)
            for group in groups:
                # A leader's last renewal may be up to a retry period old, whenever it goes.
                pause = random.uniform(0, ttl_seconds / 4) / AT_ONCE  # noqa: S311 - protects nothing
                time.sleep(pause)
                for identity in (DYING, LEADER):
                    group.stage.candidates[identity].send_signal(signal.SIGKILL)
                group.killed = time.time()
            found += [_measure(group, ttl_seconds, patience) for group in groups]
    return found


def _pods(*, loaded: bool) -> list[Pod]:
    busy = [Pod(f"busy-{number}", f"busy-{number}-0", BUSY) for number in range(BUSY_ELECTIONS)]
    heir = Pod("crash", HEIR, BUSY if loaded else SPARE)
    crash = [Pod("crash", LEADER, SPARE), heir, Pod("crash", DYING, QUIET)]
    return [*busy, Pod("quiet", "quiet-0", QUIET), *crash]


def _bring_up(groups: list[_Group], patience: float) -> None:
    """Start all but the followers; these when everything is led; return when all have come to rest."""
    for group in groups:
        for identity, candidate in group.stage.candidates.items():
            if identity not in (HEIR, DYING):
                candidate.begin()
    deadline = time.monotonic() + patience
    while not all(group.is_led(group.stage.elections) for group in groups):
        if time.monotonic() > deadline:
            raise CandidateError(f"not every election of a group has a leader within {patience:g} s")
        time.sleep(LOOK_PAUSE)
    for group in groups:
        for identity in (HEIR, DYING):
            group.stage.candidates[identity].start()
    time.sleep(SETTLE_SECONDS)
    for group in groups:
        for election in group.stage.elections.values():
            election.await_leader(patience)


def _measure(group: _Group, ttl_seconds: float, patience: float) -> Crash:
    deadline = time.monotonic() + patience
    while not (len(group.held) == 2 and leader(group.held)):
        group.stage.candidates[HEIR].check()
        if time.monotonic() > deadline:
            raise CandidateError(f"nobody leads {patience:g} s after SIGKILL")
        time.sleep(LOOK_PAUSE)
    old, new = group.held
    led_from = new.led_from or 0.0
    return Crash(loaded=group.loaded, vacancy=led_from - group.killed, beyond=led_from - old.renewed - ttl_seconds)
