"""The client: whatever comes over the wire, or does not, is an answer or an `ApiError`, in time."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException

from sidecar import kubeconfig
from sidecar.kube import (
    ANSWER_LIMIT,
    DENIAL_SECONDS,
    LIST_LIMIT,
    PAGE_LIMIT,
    PAGE_SIZE,
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    KubeClient,
    NoAnswerError,
    NotFoundError,
    Permission,
    UnauthorizedError,
    WatchEvent,
)
from sidecar.kubeconfig import ConfigError
from tests.testbed import processes
from tests.testbed.certificate import self_signed
from tests.testbed.sidecar import until
from tests.unit.wire import HANG, Wire, answered, event, http, streamed, wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@pytest.fixture(autouse=True)
def no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust nobody by default: loading the machine's authorities takes longer than any of these tests."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")


@dataclass(frozen=True)
class Tls:
    """A server's side of TLS, and the authority that signed its certificate."""

    server: ssl.SSLContext
    authority: Path


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Make a certificate for 127.0.0.1 that signs itself."""
    authority = self_signed(tmp_path_factory.mktemp("tls") / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    return Tls(context, authority)


COLLECTION = "/api/v1/namespaces/default/endpoints"
PATH = f"{COLLECTION}/example"
OBJECT = {"metadata": {"name": "example", "resourceVersion": "7"}}


def to(url: str) -> Callable[[], Awaitable[Configuration]]:
    """Return what loads a configuration for `url` and nothing else."""

    async def load() -> Configuration:
        configuration = Configuration()
        configuration.host = url
        return configuration

    return load


def client(url: str, *, timeout: float = 5.0) -> KubeClient:
    """Return a client of the server at `url`."""
    return KubeClient(to(url), timeout=timeout, user_agent="test/1")


async def failure(kube: KubeClient) -> ApiError:
    """Return what a read failed with."""
    try:
        with pytest.raises(ApiError) as caught:
            await kube.get(PATH)
    finally:
        await kube.close()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value


# -- Requests ----------------------------------------------------------------------------------------------------------


async def test_requests_are_what_the_api_server_expects() -> None:
    """Method, path, headers and body of each request, over one connection that is kept."""
    async with wire(answered(OBJECT)) as server:
        kube = client(server.url)
        assert await kube.get(PATH) == OBJECT
        assert await kube.create(PATH.rsplit("/", 1)[0], OBJECT) == OBJECT
        assert await kube.update(PATH, {"metadata": {"name": "Köln", "labels": {}}, "subsets": None}) == OBJECT
        await kube.close()
    assert [(asked.method, asked.target) for asked in server.asked] == [
        ("GET", PATH),
        ("POST", PATH.rsplit("/", 1)[0]),
        ("PUT", PATH),
    ]
    assert {asked.headers["user-agent"] for asked in server.asked} == {"test/1"}
    assert {asked.headers["accept"] for asked in server.asked} == {"application/json"}
    assert server.asked[1].headers["content-type"] == "application/json"
    assert json.loads(server.asked[1].body) == OBJECT
    assert json.loads(server.asked[2].body) == {"metadata": {"name": "Köln", "labels": {}}, "subsets": None}


async def test_patch_is_a_merge_patch() -> None:
    """A patch says in which of the formats it is; `None` is sent, because it removes."""
    body = {"metadata": {"annotations": {"a": "1", "b": None}}}
    async with wire(answered(OBJECT)) as server:
        kube = client(server.url)
        assert await kube.patch(PATH, body) == OBJECT
        await kube.close()
    (asked,) = server.asked
    assert (asked.method, asked.target) == ("PATCH", PATH)
    assert asked.headers["content-type"] == "application/merge-patch+json"
    assert asked.headers["accept"] == "application/json"
    assert json.loads(asked.body) == body


@pytest.mark.parametrize(
    ("status", "kind", "refused"),
    [
        (400, ApiError, True),
        (401, UnauthorizedError, True),
        (403, ForbiddenError, True),
        (404, NotFoundError, True),
        (409, ConflictError, True),
        (410, GoneError, True),
        (422, ApiError, True),
        (429, ApiError, True),
        (500, ApiError, False),
        (502, ApiError, False),
        (503, ApiError, False),
        (504, ApiError, False),
        (304, ApiError, False),
    ],
)
async def test_statuses_have_classes(status: int, kind: type[ApiError], *, refused: bool) -> None:
    """Each status is the error that it means; only client errors say that nothing was done."""
    body = {"kind": "Status", "message": "because", "code": status}
    async with wire(answered(body, status) if status != 304 else http(304)) as server:
        error = await failure(client(server.url))
    assert type(error) is kind
    assert error.status == status
    assert error.refused is refused
    if status != 304:
        assert str(error) == f"GET {PATH}: {status}: because"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0", 0.0), ("999999999", 999999999.0), ("", 0.0), ("-1", 0.0), ("1.5", 0.0), ("x", 0.0),
     ("9" * 5000, 0.0), ("\u0663", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)  # fmt: skip
async def test_retry_after(header: str, seconds: float) -> None:
    """Seconds are read; what is none is none."""
    async with wire(http(429, b"{}", f"Retry-After: {header}")) as server:
        assert (await failure(client(server.url))).retry_after == seconds


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>login</html>", b"[1]", b"null", b"7", b'"text"', b"{", b"\xff\xfe", b"[" * 200_000, b"1" * 10_000],
)
async def test_answers_that_are_no_object(content: bytes) -> None:
    """200 with anything but a JSON object is an error that shows how it began, and an unknown outcome."""
    async with wire(http(200, content)) as server:
        error = await failure(client(server.url))
    assert "not a JSON object" in str(error)
    assert error.status is None
    assert not error.refused


@pytest.mark.parametrize(
    "content", [b"", b"<html>\nno\n</html>", b"[]", b'{"message":null}', b'{"message":{"a":["b"]}}', b"\xff" * 100_000]
)
async def test_errors_whose_body_is_no_status(content: bytes) -> None:
    """An error is known by its HTTP status, whatever its body is, and is told in one short line."""
    async with wire(http(503, content)) as server:
        assert (await failure(client(server.url))).status == 503


async def test_message_of_several_lines_is_told_in_one() -> None:
    """A webhook may answer with a text of several lines; an error is one."""
    async with wire(answered({"message": "denied:\n\tno\r\nreason"}, 403)) as server:
        assert str(await failure(client(server.url))) == f"GET {PATH}: 403: denied: no reason"


async def test_message_of_an_error_is_cut() -> None:
    """A message that never ends does not fill the log."""
    async with wire(answered({"message": "x" * 100_000}, 500)) as server:
        assert len(str(await failure(client(server.url)))) < 700


async def test_answer_that_is_too_large() -> None:
    """An answer is read up to a limit that no object of etcd reaches."""
    async with wire(http(200, b" " * (ANSWER_LIMIT + 1))) as server:
        assert "larger than" in str(await failure(client(server.url)))


BROKEN = {
    "no-http": b"220 mail.example ESMTP\r\n",
    "binary": bytes(range(256)) * 4,
    "empty-connection": b"",
    "header-without-colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "header-too-long": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "length-is-no-number": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
    "ends-early": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "chunk-ends-early": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}",
    "bad-gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\nnothing",
    "unknown-encoding": b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 7\r\n\r\nnothing",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "status-out-of-range": b"HTTP/1.1 99999 What\r\n\r\n",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
async def test_broken_http(content: bytes) -> None:
    """What is no HTTP, or ends in the middle, is an `ApiError` of unknown outcome."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(client(f"http://127.0.0.1:{port}", timeout=2.0))
    assert not error.refused


@pytest.mark.parametrize(
    "location", ["/elsewhere", "http://127.0.0.1:1/", "//", "::::", "", "ftp://example.invalid/", "http://[", PATH]
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects(status: int, location: str) -> None:
    """The API server redirects nobody: wherever a redirect points to, it ends in an `ApiError`, in time."""
    answer = http(status, b"", f"Location: {location}", "Connection: close")
    async with wire(answer) as server:
        await failure(client(server.url))


# -- Lists -------------------------------------------------------------------------------------------------------------


def page(*names: str, following: str | None = None) -> bytes:
    """Return the answer that is one page of a list."""
    metadata = {"resourceVersion": "7"} | ({} if following is None else {"continue": following})
    return answered({"metadata": metadata, "items": [{"metadata": {"name": name}} for name in names]})


async def listed(server: Wire, *, cached: bool = False, deadline: float = 5.0) -> list[str]:
    """Return the names in a list."""
    kube = client(server.url, timeout=deadline)
    try:
        items = await kube.list_metadata(COLLECTION, label="leader-elector/group=a_b", cached=cached)
    finally:
        await kube.close()
    return [item["metadata"]["name"] for item in items]


def query(target: str) -> list[tuple[str, str]]:
    """Return what a target asks for; the path must be the collection's."""
    path, _, text = target.partition("?")
    assert path == COLLECTION
    return parse_qsl(text, strict_parsing=True)


async def test_list_from_the_cache_is_one_request() -> None:
    """From the cache: metadata alone, selected by label, at any version, and no pages, which a cache does not make."""
    async with wire(page("a", "b")) as server:
        assert await listed(server, cached=True) == ["a", "b"]
    (asked,) = server.asked
    assert asked.method == "GET"
    assert asked.headers["accept"] == "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    assert query(asked.target) == [("labelSelector", "leader-elector/group=a_b"), ("resourceVersion", "0")]


async def test_consistent_list_goes_on_to_its_last_page() -> None:
    """What is stored is read in pages, each asked for with the token of the one before, until there is none."""
    tokens = ["t+/=&", "u"]
    async with wire(page("a", following=tokens[0]), page("b", following=tokens[1]), page("c", following="")) as server:
        assert await listed(server) == ["a", "b", "c"]
    first = [("labelSelector", "leader-elector/group=a_b"), ("limit", str(PAGE_SIZE))]
    assert [query(asked.target) for asked in server.asked] == [
        first,
        [*first, ("continue", tokens[0])],
        [*first, ("continue", tokens[1])],
    ]


@pytest.mark.parametrize(("version", "expected"), [("7", 7), ("", 0), (None, 0), (7, 0), ("seven", 0), ("9" * 21, 0)])
async def test_list_tells_its_version(version: object, expected: int) -> None:
    """A list says where a watch goes on: 0, the present, where the API server does not tell."""
    async with wire(
        page("a", following="t"), answered({"metadata": {"resourceVersion": version}, "items": []})
    ) as server:
        kube = client(server.url)
        listing = await kube.list_metadata(COLLECTION, label="", cached=False)
        await kube.close()
    assert (len(listing), listing.version) == (1, expected)


@pytest.mark.parametrize("items", [[], None])
async def test_list_of_nothing(items: list[object] | None) -> None:
    """An empty list is empty, also as Go may write it, as null."""
    async with wire(answered({"metadata": {}, "items": items})) as server:
        assert await listed(server) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": []},
        {"items": [], "metadata": None},
        {"items": [], "metadata": {"continue": 7}},
        {"items": [], "metadata": {"continue": ["t"]}},
        {"metadata": {}},
        {"items": {}, "metadata": {}},
        {"items": "x", "metadata": {}},
        {"items": [None], "metadata": {}},
        {"items": [{}, "x"], "metadata": {}},
        {"kind": "Status", "metadata": {}},
    ],
    ids=json.dumps,
)
async def test_what_is_no_list(body: dict[str, object]) -> None:
    """200 with an object that is no list of objects is an `ApiError`, and never another exception."""
    async with wire(answered(body)) as server:
        with pytest.raises(ApiError, match="not a list of objects"):
            await listed(server)


async def test_list_whose_later_page_fails() -> None:
    """A list is whole or an error: 410 says that its version is no longer in the history."""
    async with wire(page("a", following="t"), answered({"message": "too old"}, 410)) as server:
        with pytest.raises(GoneError):
            await listed(server)


async def test_list_that_never_ends() -> None:
    """Pages that go round in a circle end after a number of them."""
    async with wire(page("a", following="t")) as server:
        with pytest.raises(ApiError, match=f"more than {PAGE_LIMIT} pages"):
            await listed(server)
    assert len(server.asked) == PAGE_LIMIT


async def test_list_that_is_too_large() -> None:
    """All pages together are read up to a limit, which is larger than one object's."""
    padding = b" " * (LIST_LIMIT // 2)
    half = json.dumps({"metadata": {"continue": "t"}, "items": []}).encode() + padding
    async with wire(http(200, half), page("a")) as server:
        assert await listed(server, deadline=20.0) == ["a"]
    async with wire(http(200, half)) as server:
        with pytest.raises(ApiError, match="larger than"):
            await listed(server, deadline=20.0)
    assert len(server.asked) == 2


async def test_each_page_has_a_deadline_of_its_own() -> None:
    """A page that does not come ends the list after the time-out."""
    async with wire(page("a", following="t"), HANG) as server:
        with pytest.raises(ApiError, match="no answer in time"):
            await listed(server, deadline=0.2)
    assert len(server.asked) == 2


# -- Permissions -------------------------------------------------------------------------------------------------------


def test_denied_permission_is_asked_for_again_later() -> None:
    """A 403 is remembered for ten minutes from the last time that it was met, and not before there was one."""
    now = 1000.0
    permission = Permission(lambda: now)
    assert not permission.denied
    assert permission.deny()
    assert permission.denied
    now += DENIAL_SECONDS - 1
    assert permission.denied
    now += 1
    assert not permission.denied
    assert not permission.deny(), "that is no news"
    assert permission.denied
    assert permission.allow()
    assert not permission.allow()
    assert permission.deny()


# -- Time --------------------------------------------------------------------------------------------------------------


UNFINISHED = {
    "headers": HANG,
    "half-the-headers": b"HTTP/1.1 200 OK\r\n" + HANG,
    "body": http(200, b'{"a":', length=1000) + HANG,
    "body-of-an-error": http(500, b"{", length=9) + HANG,
}


@pytest.mark.parametrize(
    ("verb", "stops_in"),
    [
        (verb, stops_in)
        for verb in ("get", "create", "update", "patch", "list", "watch")
        for stops_in in UNFINISHED
        # A watch has begun with its headers; how long it is silent is the driver's to judge.
        if (verb, stops_in) != ("watch", "body")
    ],
)
async def test_requests_end_in_time(verb: str, stops_in: str) -> None:
    """Wherever an answer stops coming, the request ends after its time-out, as one of unknown outcome."""
    async with wire(UNFINISHED[stops_in]) as server:
        kube = client(server.url, timeout=0.05)
        with pytest.raises(ApiError, match="no answer in time") as caught:
            await ask(kube, verb)
        await kube.close()
    assert caught.value.status is None
    assert not caught.value.refused


async def ask(kube: KubeClient, verb: str) -> Any:  # noqa: ANN401 - each verb has an answer of its own
    """Send one request with this verb."""
    match verb:
        case "get":
            return await kube.get(PATH)
        case "create":
            return await kube.create(PATH, OBJECT)
        case "update":
            return await kube.update(PATH, OBJECT)
        case "patch":
            return await kube.patch(PATH, OBJECT)
        case "list":
            return await kube.list_metadata(COLLECTION, label="a=b", cached=False)
        case _:
            async with kube.watch(PATH, name="example", version=7, seconds=60) as events:
                return [each async for each in events]


async def test_connection_that_is_not_accepted_ends_in_time() -> None:
    """A host that swallows packets costs one time-out."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        queued = []
        for _ in range(8):  # until the queue of connections is full, and packets are dropped
            waiting = socket.socket()
            waiting.settimeout(0.0)
            waiting.connect_ex(full.getsockname())
            queued.append(waiting)
        try:
            error = await failure(client(f"http://127.0.0.1:{full.getsockname()[1]}", timeout=0.2))
        finally:
            for waiting in queued:
                waiting.close()
    assert error.status is None


@dataclass
class Connections:
    """A server whose connections can fall silent; new ones are answered, and a watch is sent an event each time."""

    url: str = ""
    accepted: int = 0
    watching: list[asyncio.StreamWriter] = field(default_factory=list)
    _open: dict[asyncio.StreamWriter, bool] = field(default_factory=dict)
    """And whether they are silent."""

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._open)

    def fall_silent(self) -> None:
        """Answer nothing any more on the connections there are."""
        self._open = dict.fromkeys(self._open, True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection; to a watch, with its head alone."""
        self.accepted += 1
        self._open[writer] = False
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                if self._open[writer]:
                    continue
                # Whoever asks at the same time gets a connection of their own.
                await asyncio.sleep(0.01)
                if b"watch=true" in request:
                    self.watching.append(writer)
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                else:
                    writer.write(answered(OBJECT))
        del self._open[writer]
        writer.close()


@asynccontextmanager
async def connections() -> AsyncIterator[Connections]:
    """Serve on a free port."""
    served = Connections()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()


@pytest.mark.parametrize("pooled", [1, 2, 5])
async def test_silent_connections_cost_one_request_its_time(pooled: int) -> None:
    """However many connections of the pool are half-open: after one time-out a new connection is made."""
    async with connections() as server:
        kube = client(server.url, timeout=0.2)
        await asyncio.gather(*(kube.get(PATH) for _ in range(pooled)))
        assert server.accepted == pooled
        server.fall_silent()
        with pytest.raises(NoAnswerError):
            await kube.get(PATH)
        assert await kube.get(PATH) == OBJECT
        assert server.accepted == pooled + 1
        await until(lambda: server.open == 1, "the silent connections are closed")
        await kube.close()
        await until(lambda: server.open == 0, "all connections are closed")


async def test_watch_goes_on_after_a_time_out_of_another_request() -> None:
    """Only the connections that nobody uses are given up; those of a watch are closed when it ends."""
    async with connections() as server:
        kube = client(server.url, timeout=0.2)
        async with kube.watch(COLLECTION, name="example", version=7, seconds=60) as events:
            await kube.get(PATH)
            server.fall_silent()
            with pytest.raises(NoAnswerError):
                await kube.get(PATH)
            assert await kube.get(PATH) == OBJECT
            line = event("MODIFIED", OBJECT)
            server.watching[0].write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            assert await anext(events) == WatchEvent("MODIFIED", OBJECT)
        await until(lambda: server.open == 1, "the watch's connection is closed")
        await kube.close()


async def test_configuration_stays_loaded_after_a_time_out() -> None:
    """New connections need no new credentials: a plug-in that takes long is not run for them."""
    loaded = 0
    async with connections() as server:
        load = to(server.url)

        async def counting() -> Configuration:
            nonlocal loaded
            loaded += 1
            return await load()

        kube = KubeClient(counting, timeout=0.2, user_agent="t")
        await kube.get(PATH)
        server.fall_silent()
        with pytest.raises(NoAnswerError):
            await kube.get(PATH)
        await kube.get(PATH)
        await kube.close()
    assert loaded == 1


async def test_connection_refused() -> None:
    """Nobody listens: an `ApiError` that names the address."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        error = await failure(client(f"http://127.0.0.1:{port}"))
    assert f"127.0.0.1:{port}" in str(error)
    assert error.status is None


@pytest.mark.parametrize("url", ["http://name.invalid:1", "nonsense", "http://", "http://[::1", "http://127.0.0.1:x"])
async def test_address_that_leads_nowhere(url: str) -> None:
    """A name that does not resolve, and what is no address at all, are errors like any other."""
    await failure(client(url))


async def test_closed_client_connects_anew() -> None:
    """`close` is no end: the next request loads the configuration and connects."""
    async with wire(answered(OBJECT)) as server:
        kube = client(server.url)
        await kube.get(PATH)
        await kube.close()
        assert await kube.get(PATH) == OBJECT
        await kube.close()


# -- The watch ---------------------------------------------------------------------------------------------------------


async def watched(server: Wire, seen: list[WatchEvent] | None = None) -> list[WatchEvent]:
    """Return the events of a watch up to its end; `seen` has them also when it ends with an error."""
    seen = [] if seen is None else seen
    kube = client(server.url)
    try:
        async with kube.watch("/api/v1/namespaces/default/endpoints", name="example", version=7, seconds=60) as events:
            async for each in events:
                seen.append(each)
            return seen
    finally:
        await kube.close()


async def test_watch_of_a_list_asks_for_metadata() -> None:
    """What a label selects is watched as it is listed: metadata alone, from a version on, with bookmarks."""
    async with wire(streamed(event("ADDED", OBJECT))) as server:
        kube = client(server.url)
        async with kube.watch_metadata(COLLECTION, label="a=b", version=7, seconds=60) as events:
            assert [each async for each in events] == [WatchEvent("ADDED", OBJECT)]
        await kube.close()
    (asked,) = server.asked
    assert asked.headers["accept"] == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
    assert query(asked.target) == [
        ("watch", "true"),
        ("labelSelector", "a=b"),
        ("resourceVersion", "7"),
        ("allowWatchBookmarks", "true"),
        ("timeoutSeconds", "60"),
    ]


async def test_watch_asks_for_one_object() -> None:
    """The query names the object, the version to go on from, bookmarks and how long."""
    async with wire(streamed()) as server:
        assert await watched(server) == []
    assert server.asked[0].target.split("?")[1].split("&") == [
        "watch=true",
        "fieldSelector=metadata.name%3Dexample",
        "resourceVersion=7",
        "allowWatchBookmarks=true",
        "timeoutSeconds=60",
    ]


async def test_watch_shows_events_as_they_come() -> None:
    """Events are handed on one by one, also when a line comes in pieces, or several at once, or is large."""
    large = {"metadata": {"annotations": {"large": "x" * 1_000_000}}}
    lines = [event("ADDED", OBJECT), event("MODIFIED", large), event("BOOKMARK", OBJECT), event("DELETED", OBJECT)]
    pieces = [lines[0][:10], lines[0][10:] + lines[1][:500], lines[1][500:], lines[2] + lines[3]]
    async with wire(streamed(*pieces)) as server:
        events = await watched(server)
    assert [each.kind for each in events] == ["ADDED", "MODIFIED", "BOOKMARK", "DELETED"]
    assert events[1].body == large


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":null}\n',
        b'{"type":7,"object":{}}\n',
        b'{"type":"ADDED","object":{}',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"x" * 5_000_000 + b"\n",
    ],
    ids=lambda line: repr(line[:24]),
)
async def test_watch_with_garbage(line: bytes) -> None:
    """A line that is no event ends the watch with an `ApiError`, after the events before it."""
    async with wire(streamed(event("ADDED", OBJECT), line)) as server:
        seen: list[WatchEvent] = []
        with pytest.raises(ApiError) as caught:
            await watched(server, seen)
    assert [each.kind for each in seen] == ["ADDED"]
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ({"code": 410, "message": "too old resource version"}, GoneError),
        ({"code": 401, "message": "expired"}, UnauthorizedError),
        ({"code": 500, "message": None}, ApiError),
        ({"code": "x"}, ApiError),
        ({"code": True}, ApiError),
        ({}, ApiError),
    ],
)
async def test_watch_with_an_error_event(status: dict[str, Any], kind: type[ApiError]) -> None:
    """An ERROR event is what a plain request would have been answered with: 410 says that the version is too old."""
    async with wire(streamed(event("ERROR", status))) as server:
        with pytest.raises(ApiError) as caught:
            await watched(server)
    assert type(caught.value) is kind


async def test_watch_that_is_answered_with_410() -> None:
    """410 can come as the answer itself, too."""
    async with wire(answered({"code": 410, "message": "too old"}, 410)) as server:
        with pytest.raises(GoneError, match="too old"):
            await watched(server)


async def test_watch_that_breaks_off() -> None:
    """A connection that is lost in the middle of a chunk is an `ApiError`."""
    async with wire(streamed(event("ADDED", OBJECT), end=b"ff\r\n{") + b"") as server:
        server.answers = [
            server.answers[0].replace(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
        ]
        with pytest.raises(ApiError):
            await watched(server)


# -- Credentials -------------------------------------------------------------------------------------------------------


def write_kubeconfig(folder: Path, url: str, **changes: object) -> Path:
    """Write a kubeconfig with one cluster, user and context; `changes` replace its parts."""
    parts: dict[str, object] = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "good"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
        **changes,
    }
    path = folder / "config"
    path.write_text(json.dumps({key: value for key, value in parts.items() if value is not None}))
    return path


def chosen(path: Path | str) -> Callable[[], Awaitable[Configuration]]:
    """Return what loads the kubeconfig at `path`."""
    return kubeconfig.choose(kubeconfig=str(path), use_cluster_credentials=False, environ={}, home=Path("/nowhere"))


def user(**settings: object) -> list[dict[str, object]]:
    """Return the users of a kubeconfig: one."""
    return [{"name": "u", "user": settings}]


@pytest.mark.parametrize("ending", ["", "\n", " \n\n"])
async def test_token_file_that_ends_in_a_newline(tmp_path: Path, ending: str) -> None:
    """A token file may end in a newline, as `echo` writes it; client-go forgives it too."""
    (tmp_path / "token").write_text(f"secret{ending}")
    async with wire(answered(OBJECT)) as server:
        kube = KubeClient(
            chosen(write_kubeconfig(tmp_path, server.url, users=user(tokenFile="token"))), timeout=5, user_agent="t"
        )
        await kube.get(PATH)
        await kube.close()
    assert server.asked[0].headers["authorization"] == "Bearer secret"


async def test_refused_token_is_loaded_anew(tmp_path: Path) -> None:
    """After a 401 the credentials are read again from their file, but no more often than once a second."""
    (tmp_path / "token").write_text("old")
    now = 100.0
    async with wire(answered({}, 401), answered({}, 401), answered(OBJECT)) as server:
        load = chosen(write_kubeconfig(tmp_path, server.url, users=user(tokenFile="token")))
        kube = KubeClient(load, timeout=5, user_agent="t", clock=lambda: now)
        with pytest.raises(UnauthorizedError):
            await kube.get(PATH)
        (tmp_path / "token").write_text("new")
        now = 102.0
        with pytest.raises(UnauthorizedError):
            await kube.get(PATH)
        assert await kube.get(PATH) == OBJECT
        await kube.close()
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer old", "Bearer old", "Bearer new"]


async def test_unusable_credentials_on_reload_are_an_api_error(tmp_path: Path) -> None:
    """What can no longer be loaded while the program runs is a request that failed, not the end."""
    async with wire(answered({}, 401)) as server:
        path = write_kubeconfig(tmp_path, server.url)
        now = 0.0
        kube = KubeClient(chosen(path), timeout=5, user_agent="t", clock=lambda: now)
        now = 10.0
        with pytest.raises(UnauthorizedError):
            await kube.get(PATH)
        now = 20.0
        with pytest.raises(UnauthorizedError):
            await kube.get(PATH)
        path.unlink()
        with pytest.raises(ApiError, match="no such file"):
            await kube.get(PATH)
        await kube.close()


@pytest.mark.parametrize("error", [ConfigException("Token file exists but empty."), OSError("gone"), ValueError("x")])
async def test_token_that_cannot_be_read_again_is_an_api_error(error: Exception) -> None:
    """The library reads a pod's token again every minute, in the middle of a request: that may fail."""

    async def load() -> Configuration:
        configuration = Configuration()
        configuration.host = "http://127.0.0.1:1"
        configuration.api_key["BearerToken"] = "Bearer x"

        def refresh(_: Configuration) -> None:
            raise error

        configuration.refresh_api_key_hook = refresh
        return configuration

    assert str(error) in str(await failure(KubeClient(load, timeout=5, user_agent="t")))


async def test_request_goes_on_while_credentials_are_loaded_anew() -> None:
    """One request's 401 takes no other request's connection away, and the next one goes with new credentials."""
    waiting, going_on = asyncio.Event(), asyncio.Event()
    loaded = refreshed = 0

    async def load() -> Configuration:
        nonlocal loaded
        loaded += 1
        configuration = Configuration()
        configuration.host = server.url
        configuration.api_key["BearerToken"] = "Bearer x"

        async def refresh(_: Configuration) -> None:
            nonlocal refreshed
            refreshed += 1
            if refreshed == 1:
                waiting.set()
                await going_on.wait()

        configuration.refresh_api_key_hook = refresh
        return configuration

    now = 0.0
    async with wire(answered({}, 401), answered(OBJECT)) as server:
        kube = KubeClient(load, timeout=5, user_agent="t", clock=lambda: now)
        slow = asyncio.create_task(kube.get(PATH))
        await waiting.wait()
        now = 10.0
        with pytest.raises(UnauthorizedError):
            await kube.get(PATH)
        going_on.set()
        assert await slow == OBJECT
        assert await kube.get(PATH) == OBJECT
        assert loaded == 2
        await kube.close()


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_certificate_that_is_not_trusted(tls: Tls) -> None:
    """One clear sentence says whose certificate is not trusted, and why."""
    async with wire(answered(OBJECT), tls=tls.server) as server:
        error = await failure(KubeClient(to(server.url), timeout=5, user_agent="t"))
    assert "the certificate of 127.0.0.1 is not trusted" in str(error)
    assert error.status is None


async def test_certificate_authority_of_the_kubeconfig(tmp_path: Path, tls: Tls) -> None:
    """The kubeconfig's authority is what is trusted."""
    async with wire(answered(OBJECT), tls=tls.server) as server:
        cluster = {"server": server.url, "certificate-authority": str(tls.authority)}
        path = write_kubeconfig(tmp_path, server.url, clusters=[{"name": "c", "cluster": cluster}])
        kube = KubeClient(chosen(path), timeout=5, user_agent="t")
        assert await kube.get(PATH) == OBJECT
        await kube.close()


async def test_plain_text_where_tls_is_expected() -> None:
    """HTTPS to a port that speaks HTTP, and the other way round."""
    async with wire(http(400, b"")) as server:
        await failure(client(server.url.replace("http:", "https:"), timeout=0.5))


# -- Kubeconfig --------------------------------------------------------------------------------------------------------


async def config_error(load: Callable[[], Awaitable[Configuration]]) -> str:
    """Return the one line that says why nothing can be loaded, or used."""
    kube = KubeClient(load, timeout=5, user_agent="t")
    with pytest.raises(ConfigError) as caught:
        await kube.connect()
    await kube.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


CLUSTER = {"server": "https://127.0.0.1:1"}
BAD_KUBECONFIGS = {
    "no-current-context": ({"current-context": None}, "current-context"),
    "unknown-context": ({"current-context": "other"}, "other"),
    "no-contexts": ({"contexts": None}, "config"),
    "contexts-is-text": ({"contexts": "x"}, "config"),
    "missing-cluster": ({"clusters": []}, "c"),
    "cluster-is-null": ({"clusters": [{"name": "c", "cluster": None}]}, "cluster"),
    "context-without-cluster": ({"contexts": [{"name": "x", "context": {"user": "u"}}]}, "cluster"),
    "entry-without-name": ({"contexts": [{"context": {}}]}, "name"),
    "bad-base64": (
        {"clusters": [{"name": "c", "cluster": {**CLUSTER, "certificate-authority-data": "%%%"}}]},
        "certificate",
    ),
    "authority-is-no-certificate": (
        {"clusters": [{"name": "c", "cluster": {**CLUSTER, "certificate-authority-data": "bm9uZQ=="}}]},
        "certificate",
    ),
    "missing-authority": (
        {"clusters": [{"name": "c", "cluster": {**CLUSTER, "certificate-authority": "nowhere.pem"}}]},
        "nowhere.pem",
    ),
    "missing-client-certificate": (
        {
            "clusters": [{"name": "c", "cluster": CLUSTER}],
            "users": user(**{"client-certificate": "nowhere.crt", "client-key": "nowhere.key"}),
        },
        "nowhere.crt",
    ),
    "missing-token-file": ({"users": user(tokenFile="nowhere.token")}, "nowhere.token"),
    "exec-without-command": ({"users": user(exec={"apiVersion": "v1"})}, "command"),
    "exec-missing": (
        {"users": user(exec={"apiVersion": "client.authentication.k8s.io/v1", "command": "/nowhere/plugin"})},
        "/nowhere/plugin",
    ),
    "exec-fails": (
        {
            "users": user(
                exec={
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "command": sys.executable,
                    "args": ["-c", "import sys; sys.exit('log in\\nfirst')"],
                }
            )
        },
        "log in first",
    ),
    "exec-says-nothing": (
        {
            "users": user(
                exec={"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", ""]}
            )
        },
        "config",
    ),
}


@pytest.mark.parametrize(("changes", "named"), BAD_KUBECONFIGS.values(), ids=BAD_KUBECONFIGS.keys())
# kubernetes_asyncio reads the clock, and a token's expiry, with functions that Python 3.12 deprecates.
@pytest.mark.filterwarnings("ignore:datetime.datetime.utc:DeprecationWarning")
async def test_bad_kubeconfig(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    """Whatever is wrong with a kubeconfig is told in one line that names the file, and what is wrong in it."""
    path = write_kubeconfig(tmp_path, "http://127.0.0.1:1", **changes)
    message = await config_error(chosen(path))
    assert named in message
    assert str(path) in message or "certificate" in message


@pytest.mark.parametrize(
    "content", ["", "\0", "just text", "[]", "7", "a: b: c", "{", "\t- x", "clusters: 7", "&a [*a]", "\ud800"]
)
async def test_kubeconfig_that_is_no_kubeconfig(tmp_path: Path, content: str) -> None:
    """A file that is empty, no YAML, or YAML of another kind is told in one line that names it."""
    path = tmp_path / "config"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert str(path) in await config_error(chosen(path))


async def test_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    """No such file, a folder, a list of files of which none is there: one line that says so."""
    for path in (str(tmp_path / "none"), str(tmp_path), f"{tmp_path}/a:{tmp_path}/b", ":"):
        assert "no such file" in await config_error(chosen(path))


async def test_kubeconfigs_are_merged(tmp_path: Path) -> None:
    """A list of files is merged as kubectl does it; files that are not there are passed over."""
    async with wire(answered(OBJECT)) as server:
        first, second = tmp_path / "1", tmp_path / "2"
        first.mkdir()
        second.mkdir()
        one = write_kubeconfig(first, server.url, users=None, **{"current-context": None})
        two = write_kubeconfig(second, "http://127.0.0.1:1", clusters=None, contexts=None)
        kube = KubeClient(chosen(f"{tmp_path}/none:{one}:{two}"), timeout=5, user_agent="t")
        assert await kube.get(PATH) == OBJECT
        await kube.close()
    assert server.asked[0].headers["authorization"] == "Bearer good"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_exec_plugin_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that waits for somebody to type a password is given up, and does not stay behind."""
    mark = tmp_path / "pid"
    script = f"import os, time; os.symlink(str(os.getpid()), {str(mark)!r}); time.sleep(60)"
    settings = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", script]}
    path = write_kubeconfig(tmp_path, "http://127.0.0.1:1", users=user(exec=settings))
    for seconds in (1.0, 5.0, 25.0):  # until it has come so far as to wait, however busy the machine is
        monkeypatch.setattr(kubeconfig, "LOAD_TIMEOUT", seconds)
        assert "took longer" in await config_error(chosen(path))
        if mark.is_symlink():
            break
    await gone(int(mark.readlink().name))
    # What it leaves to the garbage collector is the library's to close, which says so.
    gc.collect()


async def test_exec_plugin_that_takes_longer_than_a_request(tmp_path: Path) -> None:
    """One plug-in at a time is run, to its end, however many requests time out meanwhile; then they are answered."""
    starts = tmp_path / "starts"
    starts.mkdir()
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "slow"},
    }
    script = (
        f"import os, time; open({str(starts)!r} + '/' + str(os.getpid()), 'w'); time.sleep(0.6); "
        f"print({json.dumps(credential)!r})"
    )
    settings = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", script]}
    async with wire(answered(OBJECT)) as server:
        path = write_kubeconfig(tmp_path, server.url, users=user(exec=settings))
        kube = KubeClient(chosen(path), timeout=0.1, user_agent="t")
        refused = 0
        while refused < 200:
            try:
                assert await kube.get(PATH) == OBJECT
                break
            except ApiError:
                refused += 1
        await kube.close()
    assert 1 <= refused < 200
    assert len(list(starts.iterdir())) == 1
    assert server.asked[-1].headers["authorization"] == "Bearer slow"


async def gone(pid: int) -> None:
    """Wait until there is no such process, or only what is left of one that has ended."""
    deadline = time.monotonic() + 20
    while processes.is_running(pid):
        assert time.monotonic() < deadline, "the plug-in stayed behind"
        await asyncio.sleep(0.01)


def test_no_api_server_to_talk_to(tmp_path: Path) -> None:
    """Outside of a pod and without a kubeconfig, the error says what was looked for and what to set."""
    with pytest.raises(ConfigError, match="set KUBECONFIG or --kubeconfig"):
        kubeconfig.choose(kubeconfig=None, use_cluster_credentials=False, environ={}, home=tmp_path)


async def test_pod_without_a_service_account(tmp_path: Path) -> None:
    """In a pod that mounts no token, the error says that it is the service account that cannot be used."""
    load = kubeconfig.choose(
        kubeconfig=None, use_cluster_credentials=False, environ={"KUBERNETES_SERVICE_HOST": "x"}, home=tmp_path
    )
    assert "service account" in await config_error(load)
    load = kubeconfig.choose(kubeconfig="x", use_cluster_credentials=True, environ={}, home=tmp_path)
    assert "service account" in await config_error(load)


async def test_kubeconfig_of_the_home_folder(tmp_path: Path) -> None:
    """`~/.kube/config` is what is used when nothing is said, in a pod as well."""
    (tmp_path / ".kube").mkdir()
    async with wire(answered(OBJECT)) as server:
        write_kubeconfig(tmp_path / ".kube", server.url)
        load = kubeconfig.choose(
            kubeconfig=None, use_cluster_credentials=False, environ={"KUBERNETES_SERVICE_HOST": "x"}, home=tmp_path
        )
        kube = KubeClient(load, timeout=5, user_agent="t")
        assert await kube.get(PATH) == OBJECT
        await kube.close()
