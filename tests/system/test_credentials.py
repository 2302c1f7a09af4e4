"""What becomes of an election when the candidates' tokens are rotated. Real processes under the monitor."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from tests.testbed.monitored_election import RULES, LockObject, monitored_election
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.embedded import EmbeddedForTests
    from tests.testbed.sidecar import Sidecars

LOAD_INTERVAL = 1.0
"""Seconds between two loads of credentials that are not accepted."""

SLACK = 1.5
"""Seconds that a busy machine may add beyond those by which the monitor knows it to be late."""

NOT_ACCEPTED = "the credentials are not accepted"


async def test_a_token_that_is_refused_until_another_is_there(
    embedded: EmbeddedForTests, sidecars: Sidecars, tmp_path: Path
) -> None:
    """401 for longer than a lease: nobody leads, requests and lines stay few; with a new token file somebody does."""
    token_file = tmp_path / "token"
    async with monitored_election(embedded, sidecars, ttl=2) as held:
        kubeconfig = embedded.kubeconfig_for("candidate", RULES, namespace=held.namespace, token_file=token_file)
        held.start_many(3, kubeconfig=kubeconfig)
        leader = await held.settled()
        server = embedded.server
        requests, revoked_at = server.requests.total(), time.monotonic()
        embedded.revoke_tokens("candidate", namespace=held.namespace)
        server.cut_watches()
        await held.nobody()
        last = held.monitor.last_naming(leader, leader.identity)
        assert last is not None
        assert last.sent <= revoked_at + held.renew_deadline
        await until(lambda: time.monotonic() - revoked_at > 1.5 * held.ttl, "it has lasted")
        for one in held.candidates:
            # Each of get, list, update, patch and watch says so once.
            told = [line["event"] for line in one.logged(NOT_ACCEPTED)]
            assert 1 <= len(told) == len(set(told))
            assert (await one.ask("/healthz")).status == 200
        # Refused requests are half a retry period apart, or a quarter by lot; watches back off by themselves.
        each = 10 + (time.monotonic() - revoked_at) * (4 / held.retry_period + 2)
        assert server.requests.total() - requests <= 3 * each

        token_file.write_text(embedded.issue_token("candidate", namespace=held.namespace))
        issued_at = time.monotonic()
        await held.settled()
        # Who waited for the library, which reads a token file anew once a minute, would come far later.
        seconds = held.retry_period + LOAD_INTERVAL + SLACK
        assert held.monitor.on_time(issued_at, time.monotonic()) <= seconds


async def test_a_rotated_token_costs_no_term(embedded: EmbeddedForTests, sidecars: Sidecars, tmp_path: Path) -> None:
    """A new token is in the file when the old one is refused: the leader's term goes on, again and again."""
    token_file = tmp_path / "token"
    async with monitored_election(embedded, sidecars, ttl=3) as held:
        kubeconfig = embedded.kubeconfig_for("candidate", RULES, namespace=held.namespace, token_file=token_file)
        held.start_many(2, kubeconfig=kubeconfig)
        leader = await held.settled()
        since = time.monotonic()
        term = (await leader.status())["fencing_token"]
        server = embedded.server
        for rotation in (1, 2):
            enough = server.requests["update", "endpoints"] + 2
            await until(partial(lambda least: server.requests["update", "endpoints"] >= least, enough), "renewals")
            embedded.revoke_tokens("candidate", namespace=held.namespace)
            token_file.write_text(embedded.issue_token("candidate", namespace=held.namespace))
            await until(
                partial(lambda times: len(leader.logged("update works again")) >= times, rotation), "it is over"
            )
        assert len(leader.logged(NOT_ACCEPTED)) >= 2
        assert {answer.name for answer in held.monitor.answers(leader, since=since)} == {leader.identity}
        assert (await leader.status())["fencing_token"] == term


async def test_a_service_accounts_token_is_rotated(
    real_api_server: RealAPIServer, sidecars: Sidecars, tmp_path: Path
) -> None:
    """On a real server, which remembers a revoked token for a while: the term goes on through the rotation."""
    token_file = tmp_path / "token"
    async with monitored_election(real_api_server, sidecars, ttl=3) as held:
        kubeconfig = await asyncio.to_thread(
            real_api_server.kubeconfig_for, "rotated", RULES, namespace=held.namespace, token_file=token_file
        )
        leader = held.start("pod-0", kubeconfig=kubeconfig)
        await held.settled()
        held.start("pod-1", kubeconfig=kubeconfig)
        await held.settled()
        since = time.monotonic()
        term = (await leader.status())["fencing_token"]
        await asyncio.to_thread(real_api_server.revoke_tokens, "rotated", namespace=held.namespace)
        token_file.write_text(await asyncio.to_thread(real_api_server.issue_token, "rotated", namespace=held.namespace))
        await leader.logging(NOT_ACCEPTED, seconds=30)
        lock = LockObject(real_api_server, held.namespace)
        for _ in range(2):
            await lock.renewed()
        assert await held.settled() is leader
        assert {answer.name for answer in held.monitor.answers(leader, since=since)} == {leader.identity}
        assert (await leader.status())["fencing_token"] == term
