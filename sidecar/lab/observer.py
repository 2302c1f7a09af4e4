"""Asks every sidecar of a fleet who leads, over and over, and judges what the answers prove.

Only answers count, those that anybody gets on port 4040. The lock objects are looked at for one thing: who is about to
hand over to whom, so that these two can be asked much more often than the others, and the gap between them is seen.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import aiohttp

from sidecar.lab.fleet import RUNNING, Sidecar
from sidecar.lab.resources import ENDPOINTS
from sidecar.record import CLAIM_ANNOTATION, Claim, parse_claim

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from sidecar.lab.store import Store

TICK_SECONDS = 0.02
"""From one look at the locks to the next, and from one question to the next where a hand-over is under way."""

PATIENT_SECONDS = 0.2
"""From one question to the next otherwise: 25 sidecars share two cores with whoever asks them."""

CLOSE_SECONDS = 1.0
"""How long two candidates are asked often after the lock last said that one hands over to the other."""

ANSWER_SECONDS = 1.0
"""How long an answer may take."""

LONGEST_PAUSE = 0.5
"""Seconds between two answers beyond which they prove nothing about the time between them."""


class ObservationError(Exception):
    """Something that must never happen was seen. `sidecars` are those whose logs may tell why."""

    def __init__(self, message: str, *sidecars: Sidecar) -> None:
        super().__init__(message)
        self.sidecars = sidecars


@dataclass(frozen=True, slots=True)
class Change:
    """Another sidecar leads than before. `gap` is in seconds.

    `handed_over` says that the old leader lived on. The gap is then from its last answer that named itself to the first
    one of the new leader; else it is from the signal that ended the old one.
    """

    old: Sidecar
    new: Sidecar
    handed_over: bool
    gap: float


@dataclass(slots=True)
class _Answers:
    """What one sidecar answered. Times are the event loop's, in seconds."""

    name: str | None = None
    """Whom it named last; `None` when it did not answer."""
    asking: bool = False
    due: float = 0.0
    close_until: float = 0.0
    leads_since: float | None = None
    """When the first came of the consecutive answers, up to the last one, that named itself."""
    last_sent: float = 0.0
    last_received: float = 0.0
    """When the last answer that named itself was asked for, and when it came. It was made between the two."""

    def led_at(self, other: _Answers) -> bool:
        """Tell whether this one provably led when the other one last named itself."""
        since = self.leads_since
        return since is not None and since <= other.last_sent and other.last_received <= self.last_sent


class Observer:
    """The sidecars of one namespace, as they are seen from outside while the block runs."""

    def __init__(self, store: Store, namespace: str) -> None:
        self.changes: list[Change] = []
        """Every change of a leader, in order."""
        self._store = store
        self._namespace = namespace
        self._answers: dict[Sidecar, _Answers] = {}
        self._led: dict[str, Sidecar] = {}
        self._claims: dict[str, tuple[str, Claim | None]] = {}
        self._clock = asyncio.get_running_loop().time
        self._questions: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    def follow(self, sidecars: Iterable[Sidecar]) -> None:
        """Ask these as well from now on."""
        self._answers.update((sidecar, _Answers()) for sidecar in sidecars)

    def leaders(self) -> dict[str, Sidecar]:
        """Return, for every election, who leads: the one that every living candidate of it names, itself included."""
        return {
            election: leader
            for election, candidates in self.elections().items()
            for leader in candidates
            if all(self._answers[candidate].name == leader.pod.identity for candidate in candidates)
        }

    def elections(self) -> dict[str, list[Sidecar]]:
        """Return the living candidates of every election, by its name."""
        found: defaultdict[str, list[Sidecar]] = defaultdict(list)
        for sidecar in self._answers:
            if sidecar.lives:
                found[sidecar.pod.election].append(sidecar)
        return dict(found)

    def names_itself(self, sidecar: Sidecar) -> bool:
        """Tell whether its last answer said that it leads."""
        return sidecar.lives and self._answers[sidecar].name == sidecar.pod.identity

    def check(self) -> None:
        """Raise what the observer stumbled over. Raises `ObservationError`."""
        if self._looking is not None and self._looking.done():
            self._looking.result()

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    # -- Asking --------------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as session:
            try:
                while True:
                    self._come_close()
                    for sidecar, answers in self._answers.items():
                        # Whoever was told to end is asked to the last: it must not lead beside its successor.
                        there = sidecar.lives or sidecar.process.returncode is None
                        if there and not answers.asking and answers.due <= self._clock():
                            answers.asking = True
                            question = asyncio.create_task(self._ask(session, sidecar, answers))
                            self._questions.add(question)
                    for question in [question for question in self._questions if question.done()]:
                        self._questions.discard(question)
                        question.result()
                    await asyncio.sleep(TICK_SECONDS)
            finally:
                for question in self._questions:
                    question.cancel()
                await asyncio.gather(*self._questions, return_exceptions=True)

    def _come_close(self) -> None:
        """Ask often whoever is about to hand over or to end, and whoever is to take over."""
        now = self._clock()
        pairs: dict[str, set[str]] = {}
        for stored in self._store.list_objects(ENDPOINTS, self._namespace).items:
            metadata = stored["metadata"]
            name, version = metadata["name"], metadata["resourceVersion"]
            if self._claims.get(name, ("", None))[0] != version:
                self._claims[name] = (version, parse_claim(metadata.get("annotations", {}).get(CLAIM_ANNOTATION)))
            claim = self._claims[name][1]
            if claim is not None and claim.successor:
                pairs[name] = {claim.holder, claim.successor}
        for sidecar, answers in self._answers.items():
            if not sidecar.lives or sidecar.pod.identity in pairs.get(sidecar.pod.election, ()):
                answers.close_until = now + CLOSE_SECONDS
                answers.due = min(answers.due, now)

    async def _ask(self, session: aiohttp.ClientSession, sidecar: Sidecar, answers: _Answers) -> None:
        name = None
        sent = self._clock()
        if sidecar.process.returncode is not None and sidecar.lives:
            raise ObservationError(f"{sidecar.pod.identity} exited {sidecar.process.returncode}", sidecar)
        try:
            if port := sidecar.find_port():
                async with session.get(f"http://127.0.0.1:{port}/") as response:
                    name = str((await response.json())["name"])
        except (aiohttp.ClientError, TimeoutError):
            name = None
        finally:
            answers.asking = False
        received = self._clock()
        answers.due = sent + (TICK_SECONDS if received < answers.close_until else PATIENT_SECONDS)
        if name is not None and sidecar.lives:
            sidecar.state = RUNNING
        answers.name = name
        if name == sidecar.pod.identity:
            self._named_itself(sidecar, answers, sent, received)
        else:
            answers.leads_since = None

    # -- Judging -------------------------------------------------------------------------------------------------------

    def _named_itself(self, sidecar: Sidecar, answers: _Answers, sent: float, received: float) -> None:
        if answers.leads_since is None or sent - answers.last_received > LONGEST_PAUSE:
            answers.leads_since = received
        answers.last_sent, answers.last_received = sent, received
        for rival, theirs in self._answers.items():
            if rival is sidecar or rival.pod.election != sidecar.pod.election:
                continue
            if answers.led_at(theirs) or theirs.led_at(answers):
                both = " and ".join(sorted({sidecar.pod.identity, rival.pod.identity}))
                message = f"two sidecars of {sidecar.pod.election} named themselves at once: {both}"
                raise ObservationError(message, sidecar, rival)
        before = self._led.get(sidecar.pod.election)
        if before is sidecar:
            return
        self._led[sidecar.pod.election] = sidecar
        if before is not None:
            since = self._answers[before].last_received if before.lives else before.ended_at
            self.changes.append(Change(before, sidecar, before.lives, received - since))
