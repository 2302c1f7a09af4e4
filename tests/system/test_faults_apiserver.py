"""What becomes of an election when its API server is away, answers nonsense, or cannot be reached over the network.

In every case: no candidate ends or stalls, requests and log lines stay few, the leader gives up in time, `/` names
nobody once nobody's lease can be known valid, and soon after the fault exactly one leads. Real processes under the
monitor: two candidates never name themselves at once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import signal
import ssl
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from sidecar.lab.resources import ENDPOINTS
from sidecar.registration import registrations
from tests.testbed.apiserver import STOCK_RULES, RealAPIServer
from tests.testbed.certificate import self_signed
from tests.testbed.connection import APIError
from tests.testbed.monitored_election import ELECTION, LockObject, MonitoredElection, monitored_election
from tests.testbed.proxy import Proxy
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.testbed.embedded import EmbeddedForTests
    from tests.testbed.sidecar import Sidecar, Sidecars

SLACK = 1.5
"""Seconds that a busy machine may add beyond those by which the monitor knows it to be late."""

LATE = 1.0
"""Seconds by which a follower may see a renewal after it was done, beyond those by which the monitor was late.

Who counted a lease from what it last tried to read, rather than from what it saw, would name the leader for longer.
"""

LOG_LINES = 14
"""That one fault and its end may cost a candidate: each of three verbs fails, in two ways or three, and works again; a
term ends, and begins or is seen to begin."""


class Outage:
    """What an election's candidates did from the instant at which a fault began.

    A term that it ends may have been renewed up to that instant; of what was under way nobody knows.
    """

    def __init__(self, held: MonitoredElection) -> None:
        self._held = held
        self._leader = held.leader()
        self._lines = {one: len(one.lines()) for one in held.candidates}
        self.began = time.monotonic()

    async def lasted(self, leases: float, *, one_way: bool = True) -> None:
        """Wait until it has lasted so many leases; all candidates are healthy then.

        Where requests fail in `one_way` only, what fails again is not logged again.
        """
        await until(self._is_noticed, "every candidate logs that it cannot read the lock")
        known = {one: len(one.lines()) for one in self._held.candidates}
        await until(lambda: self.seconds > leases * self._held.ttl, "the fault has lasted")
        for one in self._held.candidates:
            assert one.lines()[known[one] :] == [] or not one_way
            assert (await one.ask("/healthz")).status == 200

    def _is_noticed(self) -> bool:
        return all(
            any("get failed" in line["event"] for line in one.lines()[lines:]) for one, lines in self._lines.items()
        )

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self.began

    def gave_up_in_time(self) -> None:
        """Check that the leader named itself no longer than the renew deadline, and nobody any leader after a lease."""
        for one in self._held.candidates:
            answer = self._held.monitor.last_naming(one)
            assert answer is not None
            if one is self._leader:
                assert answer.sent <= self.began + self._held.renew_deadline
            else:
                assert self._held.monitor.on_time(self.began, answer.sent) <= self._held.ttl + LATE

    def was_quiet(self) -> None:
        """Check that the candidates logged what changed, rather than what failed, and that all of them run."""
        for one in self._held.candidates:
            assert one.is_running()
            lines = one.lines()[self._lines[one] :]
            assert len(lines) <= LOG_LINES, lines

    async def over(self, *, extra: float = 0.0) -> Sidecar:
        """Wait for one leader, and check that it came soon, and the log.

        All read once a retry period, and then `extra` seconds may go by. Who waited one more lease from there, or had
        backed off for long, would come later than a retry period before the end of such a lease.
        """
        ended = time.monotonic()
        leader = await self._held.settled()
        soon = self._held.ttl - self._held.retry_period
        assert self._held.monitor.on_time(ended, time.monotonic()) <= soon + extra
        self.was_quiet()
        return leader


def most(outage: Outage, held: MonitoredElection) -> float:
    """Return how many requests one candidate may send in an outage.

    A few while it finds out; then what is asked for backs off to a quarter of the retry period, a watch to half a
    second.
    """
    return 12 + outage.seconds * (4 / held.retry_period + 2)


# -- The API server itself ---------------------------------------------------------------------------------------------


async def test_the_api_server_hangs(real_api_server: RealAPIServer, sidecars: Sidecars) -> None:
    """SIGSTOP of kube-apiserver for two leases."""
    async with monitored_election(real_api_server, sidecars) as held, Proxy(real_api_server.url) as proxy:
        held.start_many(2)
        held.start("pod-2", kubeconfig=proxy.kubeconfig(held.kubeconfig))
        await held.settled()
        accepted = proxy.accepted
        async with paused(real_api_server):
            outage = Outage(held)
            await held.nobody()
            outage.gave_up_in_time()
            await outage.lasted(2)
            # A request that is not answered costs a connection.
            assert proxy.accepted - accepted <= most(outage, held)
        await outage.over(extra=held.request_timeout)


@asynccontextmanager
async def paused(server: RealAPIServer) -> AsyncIterator[None]:
    """Stop the API server's process for as long as the block runs; then continue it, and wait until it answers."""
    try:
        server.pause()
        yield
    finally:
        server.resume()
        await asyncio.to_thread(server.request, "GET", "/version")


async def test_the_api_server_is_restarted(real_api_server: RealAPIServer, sidecars: Sidecars) -> None:
    """Connections are refused; while it starts again, with the same data, who led is told to end, and exits 0."""
    async with monitored_election(real_api_server, sidecars) as held, Proxy(real_api_server.url) as proxy:
        held.start_many(2)
        held.start("pod-2", kubeconfig=proxy.kubeconfig(held.kubeconfig))
        old = await held.settled()
        accepted = proxy.accepted
        async with without_apiserver(real_api_server):
            outage = Outage(held)
            await held.nobody()
            outage.gave_up_in_time()
            await outage.lasted(1.3)
            assert proxy.accepted - accepted <= most(outage, held)
            old.signal(signal.SIGTERM)
            ending = asyncio.create_task(old.ended(2 * held.request_timeout + 2 * SLACK))
        assert await ending == 0
        held.candidates.remove(old)
        # A server that has just started may not answer the first request in time.
        await outage.over(extra=held.request_timeout)


@asynccontextmanager
async def without_apiserver(server: RealAPIServer) -> AsyncIterator[None]:
    """Kill the API server for as long as the block runs; then start it again, and wait until it is ready."""
    try:
        server.stop_apiserver()
        yield
    finally:
        await asyncio.to_thread(server.start_apiserver)


async def test_etcd_is_restarted(real_api_server: RealAPIServer, sidecars: Sidecars) -> None:
    """Killed below a running API server, and started again with the same data."""
    async with monitored_election(real_api_server, sidecars) as held:
        held.start_many(3)
        await held.settled()
        outage = Outage(held)
        async with without_etcd(real_api_server, LockObject(real_api_server, held.namespace)):
            outage.began = time.monotonic()
            await held.nobody()
            outage.gave_up_in_time()
            await outage.lasted(1.3, one_way=False)
        await outage.over(extra=held.request_timeout)


@asynccontextmanager
async def without_etcd(server: RealAPIServer, lock: LockObject) -> AsyncIterator[None]:
    """Kill etcd for as long as the block runs; then start it again with the same data, and wait until that is seen."""

    async def found() -> bool:
        with suppress(APIError, OSError):
            await asyncio.to_thread(server.connection.read, "GET", "/readyz")
            await lock.record()
            return True
        return False

    try:
        server.stop_etcd()
        yield
    finally:
        server.start_etcd()
        await until(found, "the API server has found etcd again", seconds=60)


def internal_error() -> web.Response:
    """Answer 500."""
    return web.Response(status=500, text="boom")


def too_many_requests() -> web.Response:
    """Answer 429, as a busy API server does."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 429, "message": "too many requests"}
    return web.json_response(status, status=429, headers={"Retry-After": "1"})


def html() -> web.Response:
    """Answer 200, as a captive portal does."""
    return web.Response(text="<html><body>Please sign in</body></html>", content_type="text/html")


_bodies = itertools.cycle(('{"kind": "Endpoints", "metadata": {', '{"kind": "Surprise"}', "[]", None))


def nonsense() -> web.Response:
    """Answer 200, in turn with half of an object, another one, none, and HTML."""
    body = next(_bodies)
    return html() if body is None else web.Response(text=body, content_type="application/json")


@pytest.mark.parametrize("answer", [internal_error, too_many_requests, nonsense])
async def test_the_api_server_answers_badly(
    embedded: EmbeddedForTests, sidecars: Sidecars, answer: Callable[[], web.Response]
) -> None:
    """Every request is answered that way, and the watches are cut."""

    async def badly(_: web.Request) -> web.StreamResponse:
        return answer()

    async with monitored_election(embedded, sidecars) as held:
        held.start_many(3)
        await held.settled()
        before = Counter(embedded.server.requests)
        embedded.server.before_request = badly
        outage = Outage(held)
        embedded.server.cut_watches()
        await held.nobody()
        outage.gave_up_in_time()
        await outage.lasted(1.3)
        sent = embedded.server.requests - before
        assert sent.total() <= 3 * most(outage, held), sent
        if answer is too_many_requests:
            asked = sent.total() - sent["watch", "endpoints"]
            assert asked <= 3 * (3 + outage.seconds / held.retry_period), sent
        embedded.server.before_request = None
        await outage.over()


async def test_the_api_servers_certificate_is_not_trusted(
    real_api_server: RealAPIServer, sidecars: Sidecars, tmp_path: Path
) -> None:
    """It is another one for a while; then for good, and the CA file that the kubeconfig names is replaced."""
    other = self_signed(tmp_path / "other.pem")
    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    listening.load_cert_chain(other)
    ca_file = Path(shutil.copy(real_api_server.ca_file, tmp_path / "ca.crt"))
    async with (
        monitored_election(real_api_server, sidecars) as held,
        Proxy(real_api_server.url) as proxy,
        Proxy(real_api_server.url, terminate=(listening, real_api_server.ssl_context)) as impostor,
    ):
        kubeconfig = proxy.kubeconfig(held.kubeconfig)
        config = json.loads(kubeconfig.read_text())
        config["clusters"][0]["cluster"]["certificate-authority"] = str(ca_file)
        kubeconfig.write_text(json.dumps(config))
        held.start_many(3, kubeconfig=kubeconfig)
        await held.settled()
        true_upstream = proxy.upstream

        accepted = proxy.accepted
        proxy.upstream = ("127.0.0.1", impostor.port)
        outage = Outage(held)
        proxy.cut()
        await held.nobody()
        outage.gave_up_in_time()
        await outage.lasted(1.3)
        assert proxy.accepted - accepted <= 3 * most(outage, held)
        assert all(one.logged("is not trusted") for one in held.candidates)
        proxy.upstream = true_upstream
        await outage.over()

        proxy.upstream = ("127.0.0.1", impostor.port)
        outage = Outage(held)
        proxy.cut()
        await held.nobody()
        outage.gave_up_in_time()
        other.replace(ca_file)
        # They load anew no more than once a second.
        await outage.over(extra=1.0)


# -- The way to it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Proxy.refuse, Proxy.silence])
async def test_a_leader_that_is_told_to_end_while_the_api_server_is_away(
    real_api_server: RealAPIServer, sidecars: Sidecars, fault: Callable[[Proxy], None]
) -> None:
    """SIGTERM ends it, status 0, after two request time-outs at most, whatever becomes of its release."""
    async with monitored_election(real_api_server, sidecars, ttl=3) as held, Proxy(real_api_server.url) as proxy:
        leader = held.start("pod-0", kubeconfig=proxy.kubeconfig(held.kubeconfig))
        await held.settled()
        fault(proxy)
        leader.signal(signal.SIGTERM)
        assert await leader.ended(2 * held.request_timeout + 2 * SLACK) == 0
        assert leader.logged("could not release the lock in time")


async def test_a_leader_that_is_cut_off_gives_up_before_its_lease_ends(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """Cut off in both directions, or in one: the leader stops, another leads, and after the cut the old one follows."""
    async with monitored_election(real_api_server, sidecars, ttl=2) as held:
        ways: dict[Sidecar, Proxy] = {}
        try:
            for number in range(3):
                proxy = Proxy(real_api_server.url)
                await proxy.start()
                ways[held.start(f"pod-{number}", kubeconfig=proxy.kubeconfig(held.kubeconfig))] = proxy
            for requests, answers in ((True, True), (True, False), (False, True)):
                old = await held.settled()
                began = time.monotonic()
                ways[old].silence(requests=requests, answers=answers)
                new = await held.settled(held.others(old))
                last = held.monitor.last_naming(old, old.identity)
                assert last is not None
                assert last.sent <= began + held.renew_deadline
                ways[old].heal()
                assert await held.settled() is new
        finally:
            for proxy in ways.values():
                await proxy.close()


# -- The watch ---------------------------------------------------------------------------------------------------------


async def test_half_open_connections_are_noticed(real_api_server: RealAPIServer, sidecars: Sidecars) -> None:
    """Every connection falls silent and new ones work: the leader's term goes on, the followers watch anew."""
    async with monitored_election(real_api_server, sidecars, ttl=3) as held, Proxy(real_api_server.url) as proxy:
        held.start_many(3, kubeconfig=proxy.kubeconfig(held.kubeconfig))
        leader = await held.settled()
        # By then everybody has its watch; who opened one later would open a new connection.
        for _ in range(2):
            await LockObject(real_api_server, held.namespace).renewed()
        token = (await leader.status())["fencing_token"]
        proxy.silence(new=False)
        for one in held.candidates:
            await one.logging("the watch has fallen silent")
        assert await held.settled() is leader
        assert (await leader.status())["fencing_token"] == token
        assert {answer.name for answer in held.monitor.answers(leader)} <= {None, "", leader.identity}
        await leader.terminate()
        await held.settled(held.others(leader))


async def test_the_leader_dies_while_the_followers_connections_are_half_open(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """They see nothing of it, and one of them leads all the same."""
    async with monitored_election(real_api_server, sidecars, ttl=2) as held, Proxy(real_api_server.url) as proxy:
        held.start_many(3, kubeconfig=proxy.kubeconfig(held.kubeconfig))
        leader = await held.settled()
        proxy.silence(new=False)
        await leader.kill()
        killed = time.monotonic()
        await held.settled(held.others(leader))
        # A read that goes over a silent connection comes first. Who relied on its watch would come far later.
        seconds = held.ttl + held.retry_period + held.request_timeout + SLACK
        assert held.monitor.on_time(killed, time.monotonic()) <= seconds


async def test_connections_that_are_cut_all_the_time(real_api_server: RealAPIServer, sidecars: Sidecars) -> None:
    """With every connection reset twice a second the leader's term goes on, and requests stay few."""
    async with monitored_election(real_api_server, sidecars, ttl=6) as held, Proxy(real_api_server.url) as proxy:
        held.start_many(3, kubeconfig=proxy.kubeconfig(held.kubeconfig))
        leader = await held.settled()
        token = (await leader.status())["fencing_token"]
        outage, accepted = Outage(held), proxy.accepted
        cut_at = outage.began

        def cut() -> bool:
            nonlocal cut_at
            # Each connection lives so long, on a busy machine as well: a retry period is three such lives.
            if time.monotonic() > cut_at + held.retry_period / 3:
                proxy.cut()
                cut_at = time.monotonic()
            return outage.seconds > held.ttl

        await until(cut, "connections were cut for long enough")
        assert proxy.accepted - accepted <= 3 * most(outage, held)
        assert await held.settled() is leader
        assert (await leader.status())["fencing_token"] == token


async def test_watches_that_are_answered_badly(embedded: EmbeddedForTests, sidecars: Sidecars) -> None:
    """Something between that spoils watches only, accepted as they seem: polling, and no line for every attempt."""

    async def spoil_watches(request: web.Request) -> web.StreamResponse | None:
        return html() if request.query.get("watch") else None

    async with monitored_election(embedded, sidecars, ttl=3) as held:
        embedded.server.before_request = spoil_watches
        held.start_many(2)
        await held.settled()
        await until(lambda: embedded.server.requests["watch", "endpoints"] >= 6, "watches were tried again")
        for one in held.candidates:
            assert len(one.logged("watch failed")) == 1
            assert one.logged("watch works again") == []
        leader = await held.settled()
        await leader.kill()
        await held.settled(held.others(leader))


async def test_a_watch_from_a_version_that_is_compacted_away(embedded: EmbeddedForTests, sidecars: Sidecars) -> None:
    """After 410 the candidates read, and watch from there: the leader's term goes on, its release is seen at once."""
    async with monitored_election(embedded, sidecars, ttl=20) as held:
        held.start_many(3)
        leader = await held.settled()
        server = embedded.server
        await until(lambda: server.open_watches == 3, "each has its watch")
        # Whoever wrote after the compaction would know a version to watch from.
        lock = partial(server.store.get, ENDPOINTS, held.namespace, ELECTION)
        await until(lambda: len(registrations(lock()["metadata"]["annotations"])) == 3, "each is registered")
        reads = server.requests["get", "endpoints"]
        other = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "another"}}
        server.store.create(ENDPOINTS, held.namespace, other)
        server.store.compact()
        server.cut_watches()
        await until(lambda: server.requests["get", "endpoints"] >= reads + 3, "each has read anew")
        await held.settled()
        await leader.terminate()
        await held.settled(held.others(leader), seconds=held.ttl / 2)


async def test_the_right_to_watch_is_withdrawn(real_api_server: RealAPIServer, sidecars: Sidecars) -> None:
    """The candidates say so once each and poll: a killed leader is followed all the same."""
    async with monitored_election(real_api_server, sidecars, ttl=2) as held, Proxy(real_api_server.url) as proxy:
        held.start_many(3, kubeconfig=proxy.kubeconfig(held.kubeconfig))
        leader = await held.settled()
        await asyncio.to_thread(real_api_server.kubeconfig_for, "candidate", STOCK_RULES, namespace=held.namespace)
        proxy.cut()
        for one in held.candidates:
            await one.logging("polling meanwhile")
        assert await held.settled() is leader
        await leader.kill()
        await held.settled(held.others(leader))
        assert all(len(one.logged("polling meanwhile")) == 1 for one in held.candidates)
