"""What only the embedded server can do: faults to order, counted requests, kubeconfigs without credentials."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes_asyncio.client import ApiClient, CoreV1Api, V1Endpoints, V1ObjectMeta
from kubernetes_asyncio.config import new_client_from_config

from sidecar.lab.access import User, rule
from sidecar.lab.apiserver import DropConnection, EmbeddedAPIServer
from sidecar.lab.resources import ENDPOINTS
from sidecar.lab.store import BACKLOG
from tests.contract.client import Api, endpoints, eventually, opened_session
from tests.testbed.embedded import EmbeddedForTests
from tests.testbed.ports import free_port


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EmbeddedAPIServer]:
    """Serve with the defaults: no users, so everybody may do everything."""
    async with EmbeddedAPIServer(port=free_port()) as started:
        yield started


@pytest_asyncio.fixture
async def api(server: EmbeddedAPIServer, tmp_path: Path) -> AsyncIterator[Api]:
    """Return a client in the namespace `default`, without a token."""
    seen = EmbeddedForTests(server, tmp_path)
    server.users = None
    async with opened_session() as session:
        yield Api(seen, session, "default", None)


async def _open_watches(server: EmbeddedAPIServer) -> int:
    return server.open_watches


async def test_without_users_nobody_is_asked(api: Api) -> None:
    """A server without users serves whoever comes, whatever token is shown."""
    assert (await api.post(api.endpoints(), endpoints("x"))).status == 201
    assert (await api.as_user("anything").delete(api.endpoints("x"))).status == 200


async def test_users_can_be_changed_while_it_runs(server: EmbeddedAPIServer, api: Api) -> None:
    """Tokens and rules count from the moment they are set."""
    await api.created("x")
    server.users = {"t": User("u", (rule(["get"], ["endpoints"], namespaces=["default"]),))}
    user = api.as_user("t")
    assert (await user.get(api.endpoints("x"))).status == 200
    assert (await user.delete(api.endpoints("x"))).status == 403
    server.users = {}
    assert (await user.get(api.endpoints("x"))).status == 401


@pytest.mark.parametrize("token", [None, "secret"])
async def test_a_kubeconfig_is_all_that_a_client_needs(
    server: EmbeddedAPIServer, tmp_path: Path, token: str | None
) -> None:
    """The Kubernetes client library works with the file as it is, and nobody else can read it."""
    if token:
        server.users = {token: User("u", (rule("*", "*"),))}
    path = tmp_path / "kubeconfig"
    server.write_kubeconfig(path, token=token, namespace="default")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    client: ApiClient = await new_client_from_config(config_file=str(path))
    body = V1Endpoints(metadata=V1ObjectMeta(name="x"))
    async with client:
        created = await CoreV1Api(client).create_namespaced_endpoints("default", body)
        assert created.metadata.name == "x"
    assert json.loads(path.read_text())["contexts"][0]["context"]["namespace"] == "default"


async def test_requests_are_counted_by_verb_and_resource(server: EmbeddedAPIServer, api: Api) -> None:
    """Every request counts once, refused ones too; a watch counts when it starts, however long it lasts."""
    async with api.watch(api.endpoints()) as events:
        await api.created("x")
        await api.post(api.endpoints(), endpoints("x"))
        await api.put(api.endpoints("x"), endpoints("x", annotations={"a": "1"}))
        for _ in range(2):
            await events.next()
    await api.get(api.endpoints("x"))
    await api.get(api.endpoints())
    await api.patch(api.leases("x"), {})
    await api.get("/version")
    assert dict(server.requests) == {
        ("watch", "endpoints"): 1,
        ("create", "endpoints"): 2,
        ("update", "endpoints"): 1,
        ("get", "endpoints"): 1,
        ("list", "endpoints"): 1,
        ("patch", "leases"): 1,
    }


async def test_a_fault_instead_of_an_answer(server: EmbeddedAPIServer, api: Api) -> None:
    """What the hook before a request returns is answered, and the request is not handled; None lets it pass."""

    async def overloaded(request: web.Request) -> web.Response | None:
        return web.Response(status=429, headers={"Retry-After": "3"}) if request.method == "POST" else None

    server.before_request = overloaded
    answer = await api.post(api.endpoints(), endpoints("x"))
    assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert (await api.get(api.endpoints("x"))).status == 404
    server.before_request = None
    assert (await api.post(api.endpoints(), endpoints("x"))).status == 201


async def test_a_request_that_is_lost(server: EmbeddedAPIServer, api: Api) -> None:
    """A connection dropped before the request: the client has no answer, and nothing was written."""

    async def lose(_: web.Request) -> None:
        raise DropConnection

    server.before_request = lose
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.post(api.endpoints(), endpoints("x"))
    server.before_request = None
    assert (await api.get(api.endpoints("x"))).status == 404


async def test_an_answer_that_is_lost(server: EmbeddedAPIServer, api: Api) -> None:
    """A connection dropped before the answer: the client has no answer, and the write was done."""

    async def lose(_: web.Request, answer: web.StreamResponse) -> None:
        assert answer.status == 201
        raise DropConnection

    server.before_answer = lose
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.post(api.endpoints(), endpoints("x"))
    server.before_answer = None
    assert (await api.get(api.endpoints("x"))).status == 200


async def test_an_answer_that_is_replaced(server: EmbeddedAPIServer, api: Api) -> None:
    """A write that was done can be answered with an error."""

    async def fail(_: web.Request, answer: web.StreamResponse) -> web.Response | None:
        return web.Response(status=500) if answer.status == 201 else None

    server.before_answer = fail
    assert (await api.post(api.endpoints(), endpoints("x"))).status == 500
    assert (await api.get(api.endpoints("x"))).status == 200


async def test_a_request_that_hangs(server: EmbeddedAPIServer, api: Api) -> None:
    """A hook that waits keeps the client waiting, and a client that gives up ends the request."""
    given_up = asyncio.Event()

    async def hang(_: web.Request) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    server.before_request = hang
    request = asyncio.create_task(api.get(api.endpoints("x")))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(request, 0.2)
    await asyncio.wait_for(given_up.wait(), 10)


async def test_watches_can_be_cut(server: EmbeddedAPIServer, api: Api) -> None:
    """Cut watches break off in the middle; new ones work, and a resumed one misses nothing."""
    start = (await api.created("x"))["metadata"]["resourceVersion"]
    async with api.watch(api.endpoints(), {"resourceVersion": start}) as events:
        await eventually(lambda: _open_watches(server), 1)
        assert server.cut_watches() == 1
        with pytest.raises(aiohttp.ClientError):
            await events.next()
    await eventually(lambda: _open_watches(server), 0)
    changed = await api.put(api.endpoints("x"), endpoints("x", annotations={"a": "1"}))
    async with api.watch(api.endpoints(), {"resourceVersion": start}) as events:
        assert await events.next() == {"type": "MODIFIED", "object": changed.body}


async def test_a_watcher_that_falls_behind_is_dropped(server: EmbeddedAPIServer, api: Api) -> None:
    """Events are not kept for ever for a watcher that does not take them: its watch ends, and it can start anew."""
    async with api.watch(api.endpoints()) as events:
        await eventually(lambda: _open_watches(server), 1)
        for n in range(BACKLOG + 1):
            server.store.update(ENDPOINTS, "default", "x", endpoints("x", annotations={"n": str(n)}))
        assert await events.rest() == []
    await eventually(lambda: _open_watches(server), 0)


async def test_a_watch_ends_with_its_client(server: EmbeddedAPIServer, api: Api) -> None:
    """A watcher that goes away leaves nothing behind, although no event would have told."""
    async with api.watch(api.endpoints()):
        await eventually(lambda: _open_watches(server), 1)
    await eventually(lambda: _open_watches(server), 0)


async def test_bookmarks_come_at_intervals(tmp_path: Path) -> None:
    """A watch that allows them gets bookmarks for as long as it lasts, each with the version of the moment."""
    async with EmbeddedAPIServer(bookmark_seconds=0.02) as server, opened_session() as session:
        seen = EmbeddedForTests(server, tmp_path)
        api = Api(seen, session, "default", seen.admin_token)
        query = {"allowWatchBookmarks": "true", "fieldSelector": "metadata.name=none"}
        async with api.watch(api.endpoints(), query) as events:
            first = await events.next()
            created = await api.created("x")
            async with asyncio.timeout(10):
                while (event := await events.next()) == first:
                    pass
    assert event["type"] == "BOOKMARK"
    assert event["object"]["metadata"] == {"resourceVersion": created["metadata"]["resourceVersion"]}


async def test_it_can_go_away_and_come_back(server: EmbeddedAPIServer, api: Api) -> None:
    """Stopped, it refuses connections and its watches break; started again, it has its port and its objects."""
    created = await api.created("x")
    port = server.port
    async with api.watch(api.endpoints(), {"resourceVersion": created["metadata"]["resourceVersion"]}) as events:
        await server.stop()
        with pytest.raises((aiohttp.ClientError, EOFError)):
            await events.next()
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.get(api.endpoints("x"))
    await server.start()
    assert server.port == port
    assert (await api.get(api.endpoints("x"))).body == created


async def test_a_port_that_is_taken(server: EmbeddedAPIServer) -> None:
    """Two servers cannot have one port, and the second says so at its start."""
    with pytest.raises(OSError, match="address already in use"):
        await EmbeddedAPIServer(port=server.port).start()


async def test_servers_know_nothing_of_each_other(server: EmbeddedAPIServer, api: Api) -> None:
    """Several servers run in one process, each with objects of its own."""
    await api.created("x")
    async with EmbeddedAPIServer() as other:
        assert other.port != server.port
        assert other.store.list_objects(ENDPOINTS).items == []
