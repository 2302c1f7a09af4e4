"""Leadership follows the main container's health: whose main container is not healthy does not stand for election.

An HTTP endpoint of the main container is asked now and then, as the kubelet asks its probes: any answer from 200 to 399
says that it is healthy, redirects are not followed, and certificates are not verified. Until it has said so for the
first time, and whenever it has failed to often enough, this candidate holds back; a leader gives way at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from sidecar.candidate import Candidate

WHY = "the main container is not healthy"
"""What the candidate abstains for."""

ANSWER_SECONDS = 10.0
"""Seconds that an answer may take at most, however rarely is asked."""

_HEALTHY = range(200, 400)


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of the main container. `contrary` answers in a row have said otherwise since."""

    healthy: bool = False
    contrary: int = 0


def judged(health: Health, *, good: bool, failures: int, successes: int) -> Health:
    """Return what is known after one more answer, of which `failures` or `successes` in a row turn it over."""
    if good == health.healthy:
        return Health(health.healthy)
    contrary = health.contrary + 1
    return Health(good) if contrary >= (successes if good else failures) else Health(health.healthy, contrary)


class HealthGate:
    """Asks `url` every `interval` seconds, and has the candidate abstain as long as the answers say so.

    From its making on: before the first good answers the candidate must not have bid.
    """

    name = "health"

    def __init__(
        self,
        candidate: Candidate,
        url: str,
        *,
        interval: float,
        failures: int,
        successes: int,
        log: FilteringBoundLogger,
    ) -> None:
        self._candidate = candidate
        self._url = url
        self._interval = interval
        self._failures = failures
        self._successes = successes
        self._log = log
        self._health = Health()
        self._failures_at_first = 0
        self._reason = ""
        candidate.abstain(WHY)

    async def run(self) -> None:
        """See `Companion.run`."""
        loop = asyncio.get_running_loop()
        self._log.info("this candidate stands for election once the main container is healthy", url=self._url)
        session = aiohttp.ClientSession(
            # The kubelet verifies none either: a probe tells health, and the container is this very pod's.
            connector=aiohttp.TCPConnector(limit=1, ssl=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=min(self._interval, ANSWER_SECONDS)),
            trust_env=False,
            headers={"User-Agent": "leader-elector"},
        )
        async with session:
            while True:
                began = loop.time()
                self._take_in(good=await self._is_good(session))
                await asyncio.sleep(max(0.0, began + self._interval - loop.time()))

    async def finish(self) -> None:
        """See `Companion.finish`: there is nothing."""

    async def _is_good(self, session: aiohttp.ClientSession) -> bool:
        try:
            # The body is not read: a connection with more of it than came along is closed.
            async with session.get(self._url, allow_redirects=False) as response:
                self._reason = f"status {response.status}"
                return response.status in _HEALTHY
        except TimeoutError:
            self._reason = "no answer in time"
        except Exception as error:  # noqa: BLE001 - whatever an answer does to the library, it is not a healthy one's
            self._reason = " ".join(str(error).split()) or type(error).__name__
        return False

    def _take_in(self, *, good: bool) -> None:
        before = self._health
        self._health = judged(before, good=good, failures=self._failures, successes=self._successes)
        if self._health.healthy == before.healthy:
            if not good and not self._health.healthy:
                self._see_first_failures()
            if not good and before.contrary == 0:
                self._log.debug("the main container did not say that it is healthy", reason=self._reason)
            return
        self._failures_at_first = self._failures
        if self._health.healthy:
            self._log.info("the main container is healthy: this candidate stands for election")
            self._candidate.stand(WHY)
        else:
            self._log.warning("the main container is not healthy: this candidate does not lead", reason=self._reason)
            self._candidate.abstain(WHY)

    def _see_first_failures(self) -> None:
        """Give the lock up that this pod may hold from before its container was restarted, once it is clear."""
        self._failures_at_first += 1
        if self._failures_at_first == self._failures:
            self._log.warning("the main container is not healthy: this candidate does not lead", reason=self._reason)
            self._candidate.abstain(WHY)
