"""`electionctl step-down`, as an operator runs it: against real sidecars, and against leaders that do not heed it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import aiohttp
import pytest

from sidecar.lab.resources import ENDPOINTS, LEASES
from sidecar.lab.status import ApiError
from sidecar.record import RECORD_ANNOTATION, STEP_DOWN_ANNOTATION, Record, format_time
from tests.testbed.electionctl import ELECTIONCTL, electionctl, running
from tests.testbed.sidecar import PATIENCE, Sidecar, Sidecars, environment, leader_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiohttp import web

    from tests.testbed.apiserver import PolicyRule, RealAPIServer
    from tests.testbed.embedded import APIServer, EmbeddedForTests

LONG = "20s"
"""A ttl that no test waits for: what happens sooner did not come from a lease that ran out."""

GROUPS = {"endpoints": "", "leases": "coordination.k8s.io"}


def rules(*verbs: str, resources: Sequence[str] = ("endpoints",)) -> list[PolicyRule]:
    """Return what allows these verbs on lock objects, and nothing else."""
    return [{"apiGroups": [GROUPS[one]], "resources": [one], "verbs": list(verbs)} for one in resources]


def started(sidecars: Sidecars, server: APIServer, namespace: str, *, lock: str, ttl: str = LONG) -> list[Sidecar]:
    """Start three candidates of one election on three nodes."""
    return [
        sidecars.start(
            election="example",
            identity=identity,
            namespace=namespace,
            ttl=ttl,
            kubeconfig=server.admin_kubeconfig,
            env={"NODE_NAME": f"node-of-{identity}", "POD_UID": identity, "ELECTION_LOCK": lock},
        )
        for identity in ("a", "b", "c")
    ]


# -- With sidecars -----------------------------------------------------------------------------------------------------


async def test_it_moves_the_leader(sidecars: Sidecars, api_server: APIServer) -> None:
    """With get and update on endpoints alone, another candidate leads long before any lease ends; what is told is so.

    The one that was asked follows, and nothing is left of the request.
    """
    namespace = api_server.namespace()
    candidates = started(sidecars, api_server, namespace, lock="endpoints")
    old = await leader_of(candidates)
    operator = api_server.kubeconfig_for("operator", rules("get", "update"), namespace=namespace)

    done = await electionctl(operator, "step-down", "example", "--json")

    assert (done.status, done.err) == (0, "")
    told = done.json()
    new = next(one for one in candidates if one.identity == told["leader"])
    assert new is not old
    assert await leader_of(candidates) is new
    assert told["moved"]
    assert (told["namespace"], told["election"], told["locks"]) == (namespace, "example", ["endpoints"])
    assert (told["asked"], told["asked_node"]) == (old.identity, f"node-of-{old.identity}")
    assert told["leader_node"] == f"node-of-{new.identity}"
    assert told["stepped_down_after"] <= told["leads_after"] < 10
    assert (await old.status())["role"] == "following"
    assert await requests_left(api_server, namespace) == []


async def test_it_says_what_happened(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """To people it says in one line who stepped down, who leads, and after how long."""
    namespace = embedded.namespace()
    candidates = started(sidecars, embedded, namespace, lock="endpoints")
    old = await leader_of(candidates)

    done = await electionctl(embedded.admin_kubeconfig, "step-down", "example", "-n", namespace)

    assert (done.status, done.err) == (0, "")
    new = await leader_of(candidates)
    begin, _, rest = done.out.partition(" stepped down after ")
    assert begin == f"{namespace}/example: {old.identity} on node-of-{old.identity}"
    assert f" s; {new.identity} on node-of-{new.identity} leads, after " in rest
    assert done.out.count("\n") == 1


@pytest.mark.parametrize("lock", ["leases", "endpointsleases"])
async def test_leases(sidecars: Sidecars, real_api_server: RealAPIServer, lock: str) -> None:
    """Candidates on Leases, and on both kinds of lock objects, heed it as well; which kind it is is found out."""
    namespace = real_api_server.namespace()
    candidates = started(sidecars, real_api_server, namespace, lock=lock)
    old = await leader_of(candidates)
    allowed = rules("get", "update", "watch", resources=("endpoints", "leases"))
    operator = real_api_server.kubeconfig_for("operator", allowed, namespace=namespace)

    done = await electionctl(operator, "step-down", "example", "--json")

    assert (done.status, done.err) == (0, "")
    told = done.json()
    assert told["asked"] == old.identity
    assert told["locks"] == (["leases"] if lock == "leases" else ["endpoints", "leases"])
    assert told["leads_after"] < 10
    assert (await leader_of(candidates)).identity == told["leader"] != old.identity
    assert await requests_left(real_api_server, namespace) == []


async def test_nobody_else_is_there(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """A single candidate steps down and leads again later: not what was asked for, and said so; status 1."""
    namespace = embedded.namespace()
    only = sidecars.start(
        election="example", identity="a", namespace=namespace, ttl="1s", kubeconfig=embedded.admin_kubeconfig
    )
    await only.leading()

    done = await electionctl(embedded.admin_kubeconfig, "step-down", "example", "-n", namespace, "--timeout", "1s")

    assert done.status == 1
    assert "a stepped down after " in done.out
    assert "nobody else led within 1 s" in done.out

    await only.leading()
    done = await electionctl(embedded.admin_kubeconfig, "step-down", "example", "-n", namespace, "--json")

    assert done.status == 1
    assert done.json()["problem"] == "a leads again: nobody else did"


async def requests_left(server: APIServer, namespace: str) -> list[str]:
    """Return the requests that stand on the lock objects of a namespace."""
    headers = {"Authorization": f"Bearer {server.admin_token}"} if server.admin_token else {}
    left = []
    async with aiohttp.ClientSession(headers=headers) as session:
        for kind, root in (("endpoints", "/api/v1"), ("leases", "/apis/coordination.k8s.io/v1")):
            url = f"{server.url}{root}/namespaces/{namespace}/{kind}"
            async with session.get(url, ssl=server.ssl_context or True) as answer:
                items = (await answer.json())["items"]
            annotations = [key for item in items for key in item["metadata"].get("annotations") or {}]
            left += [key for key in annotations if key == STEP_DOWN_ANNOTATION]
    return left


# -- Leaders that do not heed it ---------------------------------------------------------------------------------------


class Held:
    """A lock object in the embedded server's store, and whoever holds it."""

    def __init__(self, embedded: EmbeddedForTests) -> None:
        self.embedded = embedded
        self.namespace = embedded.namespace()
        self._renewed = int(time.time())

    def write(self, holder: str, *, text: str | None = None) -> None:
        """Write a record, each time with another time at which it was renewed; what else is there stays."""
        self._renewed += 1
        record = Record(
            holder=holder,
            lease_seconds=7,
            acquire_time="2026-01-01T00:00:00Z",
            renew_time=format_time(self._renewed),
            transitions=0,
        )
        kept = self.annotations()
        metadata = {"name": "example", "annotations": {**kept, RECORD_ANNOTATION: text or record.encode()}}
        body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
        self.embedded.server.store.update(ENDPOINTS, self.namespace, "example", body)

    def annotations(self) -> dict[str, str]:
        """Return what stands on it; nothing when there is none."""
        try:
            body = self.embedded.server.store.get(ENDPOINTS, self.namespace, "example")
        except ApiError:
            return {}
        annotations: dict[str, str] = body["metadata"].get("annotations", {})
        return annotations

    @asynccontextmanager
    async def renewing(self, holder: str) -> AsyncIterator[None]:
        """Renew for as long as the block runs, as the stock image does: blind to what else stands there."""

        async def renew() -> None:
            while True:
                self.write(holder)
                await asyncio.sleep(0.1)

        task = asyncio.ensure_future(renew())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def is_asked(self) -> bool:
        """Tell whether somebody asks its holder to step down."""
        return STEP_DOWN_ANNOTATION in self.annotations()


@pytest.fixture
def held(embedded: EmbeddedForTests) -> Held:
    """Make a namespace for a lock object."""
    return Held(embedded)


async def test_a_leader_that_does_not_heed_it(held: Held) -> None:
    """The stock image goes on: this is said, with what to do instead, and the request is taken back; status 1."""
    async with held.renewing("stock-0"):
        done = await electionctl(
            held.embedded.admin_kubeconfig, "step-down", "example", "-n", held.namespace, "--timeout=1s"
        )
        assert not held.is_asked()
    assert (done.status, done.err) == (1, "")
    assert "stock-0 goes on renewing and did not heed the request within 1 s: the stock image" in done.out
    assert "delete its pod" in done.out


async def test_a_leader_that_is_gone(held: Held) -> None:
    """One that does not renew either is said to be gone, and when others take over; status 1, and nothing is left."""
    held.write("gone-0")
    done = await electionctl(
        held.embedded.admin_kubeconfig, *("step-down", "example", "-n", held.namespace, "--timeout=1s", "--json")
    )
    assert done.status == 1
    told = done.json()
    assert (told["moved"], told["stepped_down_after"], told["leader"]) == (False, None, "gone-0")
    assert "gone-0 has not renewed its lease for 1 s either" in told["problem"]
    assert "its lease of 7 s" in told["problem"]
    assert not held.is_asked()


async def test_nobody_to_ask(held: Held) -> None:
    """Without an election, a holder or a readable record nobody is asked, and one line says which it is; status 1."""

    async def refusal(*arguments: str) -> str:
        done = await electionctl(
            held.embedded.admin_kubeconfig, "step-down", "example", "-n", held.namespace, *arguments
        )
        assert (done.status, done.out) == (1, "")
        assert done.err.count("\n") == 1
        return done.err

    assert "there is no such election: no endpoints and no leases of that name" in await refusal()
    assert "no leases of that name" in await refusal("--lock", "leases")
    held.write("")
    assert "nobody leads; there is nobody to ask" in await refusal("--json")
    held.write("", text="{")
    assert "the record cannot be read" in await refusal()


async def test_not_allowed(held: Held) -> None:
    """Who may not read, or not write, the lock object is told verb and resource in one line; status 1."""
    held.write("stock-0")
    for granted, missing in (((), "get"), (("get",), "update")):
        operator = held.embedded.kubeconfig_for("operator", rules(*granted), namespace=held.namespace)
        done = await electionctl(operator, "step-down", "example")
        assert (done.status, done.out) == (1, "")
        assert f"not allowed to {missing} endpoints in namespace {held.namespace}" in done.err
        assert done.err.count("\n") == 1


async def test_somebody_writes_at_the_same_time(held: Held) -> None:
    """A request that meets another write is written again, and neither is lost."""
    held.write("stock-0")
    store, met = held.embedded.server.store, 0

    async def meddle(request: web.Request) -> None:
        nonlocal met
        if request.method == "PUT" and met < 3:
            met += 1
            held.write("stock-0")

    held.embedded.server.before_request = meddle
    async with running(
        held.embedded.admin_kubeconfig, "step-down", "example", "-n", held.namespace, "--lock=endpoints"
    ) as program:
        await until(held.is_asked, "the request is written")
        assert met == 3
        held.write("next-0")
        async with asyncio.timeout(PATIENCE):
            out, _ = await program.communicate()
    assert program.returncode == 0
    assert b"stock-0 stepped down after" in out
    assert b"next-0 leads, after" in out
    assert store.get(ENDPOINTS, held.namespace, "example")["metadata"]["annotations"].keys() == {RECORD_ANNOTATION}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
async def test_told_to_end(held: Held, how: signal.Signals) -> None:
    """However it is told to end, it takes its request back, says nothing, and exits 130."""
    held.write("stock-0")
    async with running(held.embedded.admin_kubeconfig, "step-down", "example", "-n", held.namespace) as program:
        await until(held.is_asked, "the request is written")
        program.send_signal(how)
        async with asyncio.timeout(PATIENCE):
            assert await program.communicate() == (b"", b"")
    assert program.returncode == 130
    assert not held.is_asked()


async def test_a_line_on_a_terminal(held: Held) -> None:
    """A terminal shows whom it waits for, and that line is gone at the end; with `--json` it shows nothing."""
    held.write("stock-0")
    for flags, shown in (((), True), (("--json",), False)):
        ours, theirs = pty.openpty()
        program = await asyncio.create_subprocess_exec(
            ELECTIONCTL,
            *("step-down", "example", "-n", held.namespace, "--timeout", "1s", *flags),
            env=environment(
                held.embedded.admin_kubeconfig.parent,
                {"KUBECONFIG": str(held.embedded.admin_kubeconfig), "TERM": "xterm"},
            ),
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        try:
            async with asyncio.timeout(PATIENCE):
                await program.communicate()
            os.set_blocking(ours, False)
            told = b""
            # Linux says so when nobody has the other side open any more, and there is nothing left to read.
            with suppress(OSError):
                while part := os.read(ours, 2**16):
                    told += part
        finally:
            os.close(ours)
        assert (b"asked stock-0 to step down; waiting for another leader for up to 1 s" in told) is shown
        assert told.endswith(b"\r\x1b[K") is shown
        assert program.returncode == 1


async def test_a_lock_object_that_is_left_over(held: Held) -> None:
    """Where Endpoints and Lease name two holders, both are asked, and whoever steps down is told; neither is left."""
    held.write("left-over")
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "example"},
        "spec": {
            "holderIdentity": "leader",
            "leaseDurationSeconds": 7,
            "acquireTime": "2026-01-01T00:00:00.000000Z",
            "renewTime": "2026-01-01T00:00:01.000000Z",
        },
    }
    store = held.embedded.server.store
    store.create(LEASES, held.namespace, lease)
    async with running(
        held.embedded.admin_kubeconfig, "step-down", "example", "-n", held.namespace, "--json"
    ) as program:
        await until(
            lambda: (
                STEP_DOWN_ANNOTATION in store.get(LEASES, held.namespace, "example")["metadata"].get("annotations", {})
            ),
            "the Lease's holder is asked",
        )
        assert held.is_asked()
        body = store.get(LEASES, held.namespace, "example")
        spec = {**body["spec"], "holderIdentity": "next"}
        store.update(LEASES, held.namespace, "example", {**body, "spec": spec})
        async with asyncio.timeout(PATIENCE):
            out, _ = await program.communicate()
    told = json.loads(out)
    assert (told["asked"], told["leader"], program.returncode) == ("leader", "next", 0)
    assert not held.is_asked()
