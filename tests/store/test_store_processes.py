"""The store's promise, kept by processes: real sidecars, an embedded API server, kills, stops, and lost volumes.

While clients write and read. In the end the judge of their history finds nothing, and all replicas hold the same.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from tests.store.history import History, Kind, Outcome, check
from tests.store.load import Load, ask, client_session
from tests.store.replicas import API, silenced
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

    from tests.store.conftest import StartReplicas
    from tests.store.replicas import Replicas

pytestmark = pytest.mark.election

CLIENT_SECONDS = 3.0
"""That a client waits for an answer: those who ask a process that stands still go on without it."""

NOT_ACKNOWLEDGED = ("503", "504")
"""What a write is answered with that is not acknowledged, and not wrong in itself."""

CALM_TTL = 60
"""Seconds of the lease where nobody is to lose it."""

KEPT = 20
"""Entries of the log that are kept for those who were away, where more are to be missed than that."""


@asynccontextmanager
async def judged_load(store: Replicas, tmp_path: Path) -> AsyncIterator[Load]:
    """Write and read at all replicas while the block runs; then all must hold the same, and the judge find nothing."""
    history = History()
    async with Load(history, store.targets, seconds=CLIENT_SECONDS) as load:
        await load.acknowledged()
        await store.ready()
        yield load
        await load.acknowledged()
    await store.record_end(history)
    history.save(tmp_path / "history.jsonl")
    assert check(history) == [], f"in {history.summary()}; all of it: {tmp_path}/history.jsonl"
    # A history of nothing would be sound as well.
    assert any(one.kind is Kind.CONSISTENT_GET and one.outcome is Outcome.DONE for one in history.operations)
    strange = [one for one in history.operations if one.told.startswith("500")]
    assert not strange, f"{strange[0]}: {strange[0].told}"


# -- What befalls replicas --


async def test_a_leader_that_is_killed_loses_nothing(start_replicas: StartReplicas, tmp_path: Path) -> None:
    """The leader's store is killed, another one takes writes, and the old one follows when it is started again."""
    store = await start_replicas()
    async with judged_load(store, tmp_path) as load:
        old = await store.leader()
        await old.kill()
        await store.leader(store.others(old))
        await load.acknowledged()
        old.start()
        await store.in_step(old)


@pytest.mark.parametrize("what", [("store", "sidecar"), ("sidecar",)], ids="+".join)
async def test_a_deposed_leader_acknowledges_nothing(
    start_replicas: StartReplicas, tmp_path: Path, what: tuple[str, ...]
) -> None:
    """Whatever of a leader stands still until another one leads, then goes on: its token acknowledges nothing more.

    Not even what a process that stood still was asked before. Afterwards it follows.
    """
    store = await start_replicas()
    async with judged_load(store, tmp_path) as load, client_session() as session:
        old = await store.leader()
        token = (await old.said())["token"]

        def asked() -> list[asyncio.Task[None]]:
            return [asyncio.create_task(one_write()) for _ in range(5)]

        async def one_write() -> None:
            one = await ask(session, old.target, Kind.PUT, "a", load.history.unique_value())
            load.history.record(one)
            assert one.outcome is Outcome.DONE or one.told.startswith(NOT_ACKNOWLEDGED), one.told
            assert one.invoked < deposed or one.token != token

        deposed = float("inf")
        with old.standing_still(store="store" in what, sidecar="sidecar" in what):
            if "store" in what:
                deposed = time.monotonic()
            early = asked()
            new = await store.leader([*store.others(old)])
            await load.acknowledged()
            deposed = min(deposed, time.monotonic())
            late = asked()
            if "store" not in what:
                await asyncio.gather(*late)
        await asyncio.gather(*early, *late)
        assert (await new.said())["token"] > token
        await old.following()


async def test_a_leader_that_is_cut_off_acknowledges_nothing(start_replicas: StartReplicas, tmp_path: Path) -> None:
    """A leader that clients reach, and that reaches nobody, answers 503 or 504 while another one leads.

    What it was asked and could not tell the others is not acknowledged when they reach it again.
    """
    store = await start_replicas(proxied=True)
    async with judged_load(store, tmp_path) as load, client_session() as session:
        old = await store.leader()
        with silenced(store.network.peers(old.name) + store.network.to(old.name, API)):
            values = [load.history.unique_value() for _ in range(5)]
            answers = asyncio.gather(*(ask(session, old.target, Kind.PUT, "a", value) for value in values))
            await store.leader(store.others(old))
            await load.acknowledged()
            for one in await answers:
                load.history.record(one)
                assert one.outcome is not Outcome.DONE
                assert one.told.startswith(NOT_ACKNOWLEDGED), one.told
        await load.acknowledged()
        await old.following()


async def test_a_follower_that_missed_more_than_the_log_keeps_comes_back(
    start_replicas: StartReplicas, tmp_path: Path
) -> None:
    """A follower that was away while more was written than the log keeps is brought up to date by a snapshot."""
    store = await start_replicas(log_kept=KEPT)
    async with judged_load(store, tmp_path) as load:
        away = store.others(await store.leader())[0]
        await away.kill()
        await load.acknowledged(writes=5 * KEPT)
        away.start()
        await store.in_step(away)
    assert "copied from" in away.output()


@pytest.mark.parametrize("leads", [False, True], ids=["follower", "leader"])
async def test_a_replica_whose_volume_is_lost_comes_back(
    start_replicas: StartReplicas, tmp_path: Path, *, leads: bool
) -> None:
    """One volume may be lost, the leader's as well: its replica comes back empty, and gets all from the others."""
    store = await start_replicas()
    async with judged_load(store, tmp_path) as load:
        leader = await store.leader()
        lost = leader if leads else store.others(leader)[0]
        await lost.kill()
        lost.lose_volume()
        lost.start()
        await load.acknowledged()
        await store.leader()
        await load.acknowledged()


async def test_without_a_majority_nothing_is_acknowledged(start_replicas: StartReplicas, tmp_path: Path) -> None:
    """A leader alone answers writes with 503 or 504, and consistent reads with 503; plain reads it serves on.

    When the others are back, it goes on.
    """
    store = await start_replicas()
    async with judged_load(store, tmp_path) as load, client_session() as session:
        leader = await store.leader()
        for one in store.others(leader):
            await one.kill()
        alone = time.monotonic()
        kinds = (Kind.PUT, Kind.DELETE, Kind.CONSISTENT_GET, Kind.GET)
        values = (load.history.unique_value(), None, None, None)
        put, delete, consistent, plain = await asyncio.gather(
            *(ask(session, leader.target, kind, "a", value) for kind, value in zip(kinds, values, strict=True))
        )
        for answer in (put, delete, consistent, plain):
            load.history.record(answer)
        assert put.told.startswith(NOT_ACKNOWLEDGED)
        assert delete.told.startswith(NOT_ACKNOWLEDGED)
        assert consistent.told.startswith("503")
        assert plain.outcome is Outcome.DONE
        assert load.history.acknowledged(since=alone) == []
        for one in store.others(leader):
            one.start()


async def test_all_at_once_may_be_killed(start_replicas: StartReplicas, tmp_path: Path) -> None:
    """What was acknowledged is on disks: all stores may be killed at once, and go on where they were."""
    store = await start_replicas()
    async with judged_load(store, tmp_path) as load:
        for one in store.members:
            one.signal(signal.SIGKILL)
        for one in store.members:
            await one.ended()
            one.start()
        await load.acknowledged()


async def test_a_leader_that_is_told_to_end_is_succeeded_before_its_lease_runs_out(
    start_replicas: StartReplicas, tmp_path: Path
) -> None:
    """SIGTERM to both of a leader's processes, as when its pod is deleted: both end in order, and another one leads.

    The lease is longer than the test waits for that.
    """
    store = await start_replicas(ttl=600)
    async with judged_load(store, tmp_path) as load:
        old = await store.leader()
        assert old.sidecar is not None
        old.signal(signal.SIGTERM)
        old.sidecar.signal(signal.SIGTERM)
        assert await old.ended() == 0
        assert await old.sidecar.ended() == 0
        await store.leader(store.others(old))
        await load.acknowledged()
        old.start()
        old.sidecar.start()
        await store.in_step(old)


# -- What clients are answered --


async def test_any_replica_takes_a_write_and_reads_consistently(start_replicas: StartReplicas) -> None:
    """Followers pass writes on; what one replica acknowledged, a consistent read at any other one shows at once.

    One that is told to redirect answers 307 with the leader's address, and reads by itself all the same.
    """
    store = await start_replicas(ttl=CALM_TTL)
    await store.ready()
    leader = await store.leader()
    async with client_session() as session:
        before = 0
        for round_ in range(5):
            for writer in store.members:
                value = f"{round_} by {writer.name}"
                written = await ask(session, writer.target, Kind.PUT, "key", value)
                assert written.outcome is Outcome.DONE, written.told
                assert (written.sequence or 0) > before
                before = written.sequence or 0
                for reader in store.members:
                    read = await ask(session, reader.target, Kind.CONSISTENT_GET, "key")
                    assert (read.value, read.sequence) == (value, written.sequence), read
        deleted = await ask(session, store.others(leader)[0].target, Kind.DELETE, "key")
        assert deleted.outcome is Outcome.DONE
        gone = await ask(session, store.others(leader)[1].target, Kind.CONSISTENT_GET, "key")
        assert gone.told.startswith("404")
        redirecting = store.others(leader)[0]
        await redirecting.kill()
        redirecting.env |= {"WRITES": "redirect", "REDIRECT_TO": "http://{name}.example:8080"}
        redirecting.start()
        await redirecting.following()
        for method, query in (("PUT", ""), ("DELETE", ""), ("GET", "?consistent=1")):
            url = f"{redirecting.target.url}/kv/key{query}"
            async with session.request(method, url, allow_redirects=False) as answer:
                assert answer.status == HTTPStatus.TEMPORARY_REDIRECT
                assert answer.headers["Location"] == f"http://{leader.name}.example:8080/kv/key{query}"
        assert (await ask(session, redirecting.target, Kind.GET, "key")).outcome is Outcome.DONE


async def test_what_is_too_large_is_refused_wherever_it_is_sent(start_replicas: StartReplicas) -> None:
    """Keys up to 256 bytes, values up to 64 KiB, any bytes; beyond, 400 and 413 with a line of JSON, and no change."""
    store = await start_replicas(ttl=CALM_TTL)
    await store.ready()
    leader = await store.leader()
    values = (b"", bytes(range(256)), b"x" * 65536)
    keys = ("k", "k" * 256, "ä" * 128, "a/b", "a b", "%", "?")
    async with client_session() as session:
        for member in (leader, store.others(leader)[0]):
            for value in values:
                assert (await sent(session, "PUT", member.target.url, "key", value))[0] == HTTPStatus.OK, len(value)
                read = await sent(session, "GET", member.target.url, "key", query="?consistent=1")
                assert read == (HTTPStatus.OK, value)
            for key in keys:
                assert (await sent(session, "PUT", member.target.url, key, key.encode()))[0] == HTTPStatus.OK, key
                read = await sent(session, "GET", member.target.url, key, query="?consistent=1")
                assert read == (HTTPStatus.OK, key.encode())
            for key, value, status in (
                ("k" * 257, b"", HTTPStatus.BAD_REQUEST),
                ("ä" * 129, b"", HTTPStatus.BAD_REQUEST),
                ("key", b"x" * 65537, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
                ("key", b"x" * 2**20, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
            ):
                refused, told = await sent(session, "PUT", member.target.url, key, value)
                assert refused == status
                assert told.startswith(b'{"error": "')
                assert told.count(b"\n") == 0
            read = await sent(session, "GET", member.target.url, "key", query="?consistent=1")
            assert read == (HTTPStatus.OK, values[-1])


async def test_without_a_leader_writes_are_refused_and_reads_go_on(start_replicas: StartReplicas) -> None:
    """While no sidecar names a leader, writes and consistent reads are answered 503 with Retry-After; reads go on."""
    store = await start_replicas(ttl=CALM_TTL)
    await store.ready()
    leader = await store.leader()
    async with client_session() as session:
        assert (await sent(session, "PUT", leader.target.url, "key", b"value"))[0] == HTTPStatus.OK
        for member in store.members:
            await store.in_step(member)
        for member in store.members:
            assert member.sidecar is not None
            await member.sidecar.kill()
        for member in store.members:

            async def is_refused(url: str = f"{member.target.url}/kv/key") -> bool:
                async with session.put(url, data=b"another") as answer:
                    retry = answer.headers.get("Retry-After")
                    return answer.status == HTTPStatus.SERVICE_UNAVAILABLE and retry == "1"

            await until(is_refused, f"{member.name} refuses writes")
            read = await sent(session, "GET", member.target.url, "key", query="?consistent=1")
            assert read[0] == HTTPStatus.SERVICE_UNAVAILABLE
            assert (await sent(session, "GET", member.target.url, "key"))[0] == HTTPStatus.OK
            async with session.get(f"{member.target.url}/healthz") as answer:
                assert answer.status == HTTPStatus.OK


async def test_the_replication_port_refuses_a_smaller_token(start_replicas: StartReplicas) -> None:
    """Whoever comes to a follower with a smaller token than the leader's is refused with 403, and changes nothing."""
    store = await start_replicas(ttl=CALM_TTL)
    await store.ready()
    leader = await store.leader()
    follower = store.others(leader)[0]
    async with client_session() as session:
        assert (await ask(session, leader.target, Kind.PUT, "key", "value")).outcome is Outcome.DONE
        await store.in_step(follower)
        role = await leader.said()
        token, committed = role["token"], role["committed"]
        append = {
            "leader": leader.name,
            "token": token - 1,
            "previous": [token, committed],
            "entries": [[committed + 1, token - 1, "key", "ZXZpbA=="]],
            "committed": committed + 1,
            "horizon": 0,
        }
        for what, body in (("prepare", {"token": token - 1}), ("append", append)):
            async with session.post(f"{follower.peers_url}/{what}", json=body) as answer:
                assert answer.status == HTTPStatus.FORBIDDEN
                assert (await answer.json())["promised"] >= token
        assert (await ask(session, follower.target, Kind.GET, "key")).value == "value"
        # Nor does a follower write for somebody who takes it for the leader.
        async with session.post(f"{follower.peers_url}/leader/PUT/key", data=b"evil") as answer:
            assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
        assert (await ask(session, leader.target, Kind.CONSISTENT_GET, "key")).value == "value"


async def sent(
    session: aiohttp.ClientSession, method: str, url: str, key: str, value: bytes | None = None, *, query: str = ""
) -> tuple[int, bytes]:
    """Send a request about a key of any characters; return the status and the body."""
    quoted = "".join(f"%{byte:02X}" for byte in key.encode())
    async with session.request(method, URL(f"{url}/kv/{quoted}{query}", encoded=True), data=value) as answer:
        return answer.status, await answer.read()
