"""Faults of the network between a candidate and the API server, by the proxy that each candidate has for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.safety.chaos.faults import Fault

if TYPE_CHECKING:
    from tests.safety.chaos.fleet import Pod

SUBJECT = "network"


class _OfNetwork(Fault):
    """A fault of the network of one pod, or of all pods of an election."""

    pods: tuple[Pod, ...] = ()

    def take(self, *, everybody: bool = False) -> tuple[Pod, ...]:
        """Choose whom it hits. Raises MissedError."""
        self.pods = (self.choose(SUBJECT),)
        if everybody:
            members = self.stage.fleet.members(self.election)
            others = [pod for pod in members if SUBJECT not in pod.harmed]
            for pod in others:
                pod.harmed.add(SUBJECT)
            self.pods = (*self.pods, *others)
        self.target = ", ".join(pod.identity for pod in self.pods)
        return self.pods

    async def _end(self) -> None:
        """Let everything flow again."""
        for pod in self.pods:
            pod.proxy.heal()
            pod.harmed.discard(SUBJECT)


class CutOff(_OfNetwork):
    """Nothing comes through either way; what was sent meanwhile comes later, or is lost with its connection."""

    name = "cut-off"
    leases = (0.5, 2.5)

    async def _begin(self) -> None:
        self.take()[0].proxy.silence()

    async def _end(self) -> None:
        if self.planned.luck < 1 / 2:
            for pod in self.pods:
                pod.proxy.cut()
        await super()._end()


class RequestsLost(_OfNetwork):
    """Nothing comes through to the API server; it applies what was held back when it is over."""

    name = "requests-lost"
    leases = (0.5, 2.0)

    async def _begin(self) -> None:
        self.take()[0].proxy.silence(answers=False)


class AnswersLost(_OfNetwork):
    """Requests are done, and their answers, with what a watch shows, do not come."""

    name = "answers-lost"
    leases = (0.5, 2.0)

    async def _begin(self) -> None:
        self.take()[0].proxy.silence(requests=False)


class HalfOpen(_OfNetwork):
    """Every connection of an election's candidates is dead, and nobody is told so; new ones work."""

    name = "half-open"
    leases = (1.0, 2.5)

    async def _begin(self) -> None:
        for pod in self.take(everybody=True):
            pod.proxy.silence(new=False)


class Refused(_OfNetwork):
    """Connections are reset, and new ones are refused."""

    name = "refused"
    leases = (0.3, 2.0)

    async def _begin(self) -> None:
        self.take()[0].proxy.refuse()

    async def _end(self) -> None:
        for pod in self.pods:
            # Nobody else takes a port that was given out.
            await pod.proxy.start()
        await super()._end()


class Resets(_OfNetwork):
    """Every connection of an election's candidates is reset, several times a lease."""

    name = "resets"
    leases = (1.0, 2.5)

    async def _begin(self) -> None:
        self.repeat(self._cut(self.take(everybody=True)))

    async def _cut(self, pods: tuple[Pod, ...]) -> None:
        while True:
            for pod in pods:
                pod.proxy.cut()
            await self.pause(0.02 + 0.2 * self.planned.luck)

    async def _end(self) -> None:
        await self.stop_repeating()
        await super()._end()


class Latency(_OfNetwork):
    """100 ms more in each direction, for all candidates of an election."""

    name = "latency-100-ms"
    leases = (1.0, 2.5)
    seconds = 0.1

    async def _begin(self) -> None:
        for pod in self.take(everybody=True):
            pod.proxy.delay(requests=self.seconds, answers=self.seconds)


class LongLatency(_OfNetwork):
    """2 s more for what is sent, or answered, or both: requests time out, and are applied long after."""

    name = "latency-2-s"
    leases = (1.0, 3.0)
    seconds = 2.0

    async def _begin(self) -> None:
        way = int(self.planned.luck * 6)
        for pod in self.take(everybody=way % 2 == 0):
            pod.proxy.delay(
                requests=self.seconds if way // 2 != 0 else 0.0, answers=self.seconds if way // 2 != 1 else 0.0
            )


class Flapping(_OfNetwork):
    """Cut off and back again, for moments around the request time-out, so that answers come when nobody waits."""

    name = "flapping"
    leases = (1.0, 3.0)

    async def _begin(self) -> None:
        self.repeat(self._flap(self.take()[0]))

    async def _flap(self, pod: Pod) -> None:
        while True:
            pod.proxy.silence()
            await self.pause(0.1 + 0.3 * self.planned.luck)
            pod.proxy.heal()
            await asyncio.sleep(0.05)

    async def _end(self) -> None:
        await self.stop_repeating()
        await super()._end()
