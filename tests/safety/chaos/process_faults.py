"""Faults of a candidate's process: killed, ended, stopped; and pods that come back under their name."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

from tests.safety.chaos import network_faults
from tests.safety.chaos.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.safety.chaos.fleet import Pod, Process

SUBJECT = "process"

STUTTERS = (0.3, 0.6, 0.66, 0.7, 0.95, 1.05)
"""For how long a process is stopped again and again, in leases. A leader leads for two thirds without a renewal."""


class _OfProcess(Fault):
    """A fault of one pod's process."""

    pod: Pod | None = None
    process: Process | None = None
    subjects: Collection[str] = ()

    def take(self, *subjects: str) -> tuple[Pod, Process]:
        """Choose whom it hits, to whom nothing of these subjects happens either. Raises MissedError."""
        self.subjects = {SUBJECT, *subjects}
        self.pod = self.choose(*self.subjects)
        process = self.pod.process
        if process is None:
            raise RuntimeError(f"{self.pod.identity} runs without a process")
        self.process = process
        self.target = process.name
        return self.pod, process

    async def _end(self) -> None:
        """Leave the pod to others."""
        if self.pod is not None:
            self.pod.harmed.difference_update(self.subjects)


class Killed(_OfProcess):
    """SIGKILL; the container is started again in the same pod."""

    name = "killed"
    traits = frozenset({"starts"})

    async def _begin(self) -> None:
        _, process = self.take()
        await self.stage.fleet.kill(process)

    async def _end(self) -> None:
        if self.pod is not None:
            self.stage.fleet.launch(self.pod)
        await super()._end()


class Replaced(_OfProcess):
    """SIGKILL, and another pod of that name starts at once on another node."""

    name = "replaced"
    traits = frozenset({"starts"})
    leases = (0.0, 0.5)

    async def _begin(self) -> None:
        pod, process = self.take()
        fleet = self.stage.fleet
        await fleet.kill(process)
        fresh = await fleet.pod(pod.election, pod.identity, _another_node(self, pod))
        fleet.launch(fresh)


class Namesake(_OfProcess):
    """The pod's node is cut off, and another pod of its name starts while it still runs.

    Its network comes back, both run for a moment, and then the old one is killed.
    """

    name = "namesake"
    traits = frozenset({"starts"})
    leases = (0.5, 2.5)

    async def _begin(self) -> None:
        pod, _ = self.take(network_faults.SUBJECT)
        pod.proxy.silence()
        fleet = self.stage.fleet
        fleet.launch(await fleet.pod(pod.election, pod.identity, _another_node(self, pod)))

    async def _end(self) -> None:
        if self.pod is not None and self.process is not None:
            self.pod.proxy.heal()
            await self.pause(0.5)
            await self.stage.fleet.kill(self.process)
        await super()._end()


class Terminated(_OfProcess):
    """SIGTERM; the container is started again in the same pod."""

    name = "terminated"
    traits = frozenset({"starts"})

    async def _begin(self) -> None:
        _, process = self.take()
        self.stage.fleet.terminate(process)

    async def _end(self) -> None:
        if self.pod is not None and self.process is not None:
            await self.stage.fleet.ended(self.process)
            self.stage.fleet.launch(self.pod)
        await super()._end()


class Stopped(_OfProcess):
    """SIGSTOP for longer than the lease, then SIGCONT."""

    name = "stopped"
    leases = (1.1, 2.5)

    async def _begin(self) -> None:
        _, process = self.take()
        self.stage.fleet.stop(process)

    async def _end(self) -> None:
        if self.process is not None:
            await self.stage.fleet.resume(self.process)
        await super()._end()


class Stuttering(_OfProcess):
    """SIGSTOP for about as long as a leader leads without a renewal, again and again."""

    name = "stuttering"
    leases = (1.5, 3.0)

    async def _begin(self) -> None:
        _, process = self.take()
        self.repeat(self._stutter(process))

    async def _stutter(self, process: Process) -> None:
        for leases in islice(cycle(STUTTERS), int(self.planned.luck * len(STUTTERS)), None):
            self.stage.fleet.stop(process)
            await self.pause(leases)
            await self.stage.fleet.resume(process)
            await self.pause(0.1)

    async def _end(self) -> None:
        await self.stop_repeating()
        if self.process is not None:
            self.stage.fleet.stop(self.process)
            await self.stage.fleet.resume(self.process)
        await super()._end()


def _another_node(fault: Fault, pod: Pod) -> str:
    fleet = fault.stage.fleet
    others = [node for node in map(fleet.node, range(fleet.shape.nodes)) if node != pod.node]
    return others[int(fault.planned.luck * len(others))] if others else pod.node
