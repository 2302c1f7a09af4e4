"""The answers on the HTTP port, by a candidate that says what the test tells it to."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from sidecar import stream, web
from sidecar.balance import Census, Election
from sidecar.candidate import Candidate, Status
from sidecar.census import Taken
from tests.testbed.sidecar import Answer, exchange, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.web import Application, Request

    Client = TestClient[Request, Application]

STATUS = Status(
    identity="pod-1",
    node="node-1",
    role="leading",
    leader="pod-1",
    leader_node="node-1",
    fencing_token=4711,
    since="2026-01-02T03:04:05Z",
    valid_for=6.5,
    transitions=3,
    why="leading",
    last_error="",
    placing="stayed: node-1 carries 1 of 1, and a move would better nothing",
    census=Taken(
        Census((Election(name="default/example", node="node-1", nodes=frozenset({"node-1", "node-2"})),)),
        at=1_767_323_045,
        nudges={},
    ),
)

METRICS = b"# HELP leader_election_x Anything.\n# TYPE leader_election_x gauge\nleader_election_x 1\n"


class Told:
    """A candidate that is in the state that it was told."""

    def __init__(self) -> None:
        self.name = ""
        self.leading = False
        self.ready = False
        self.alive = True
        self.told = STATUS
        self.orders: list[str] = []
        self._listeners: list[Callable[[], None]] = []

    def leader_name(self) -> str:
        """Return the name."""
        return self.name

    def is_leading(self) -> bool:
        """Tell whether it leads."""
        return self.leading

    def is_ready(self) -> bool:
        """Tell whether the lock was observed."""
        return self.ready

    def is_alive(self) -> bool:
        """Tell whether the loop goes round."""
        return self.alive

    def status(self) -> Status:
        """Return all of it."""
        return self.told

    def step_down(self, why: str) -> bool:
        """Take note of the order, and tell whether it led."""
        self.orders.append(why)
        return self.leading

    def on_change(self, listener: Callable[[], None]) -> None:
        """Keep a listener."""
        self._listeners.append(listener)

    def same_until(self) -> float:
        """Never change by time alone."""
        return math.inf

    def change(self, *, leader: str, token: int | None = None, role: str = "following") -> None:
        """Have the election stand otherwise, and tell whoever listens."""
        self.name, self.leading = leader, token is not None
        self.told = replace(self.told, leader=leader, fencing_token=token, role=role)
        for listener in self._listeners:
            listener()


async def exposition() -> bytes:
    """Return what `/metrics` says."""
    return METRICS


def election_of(candidate: Told) -> web.Election:
    """Return the election of the candidate."""
    return web.Election(
        name="example",
        namespace="default",
        group="default",
        candidate=cast("Candidate", candidate),
        now=time.monotonic,
        metrics=exposition,
    )


def application(candidate: Told) -> Application:
    """Return what answers for the candidate."""
    return web.application(election_of(candidate))


@pytest.fixture
def candidate() -> Told:
    """A candidate that knows nothing yet."""
    return Told()


@pytest_asyncio.fixture
async def client(candidate: Told) -> AsyncIterator[Client]:
    """Ask the application; one connection is kept open between questions."""
    async with TestClient(TestServer(application(candidate))) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/unknown", "//", "/status/", "/leader/x", "/healthz2", "/%00", "/?a=b"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
async def test_every_path_and_method_is_told_the_name(candidate: Told, client: Client, method: str, path: str) -> None:
    """What no other route is for is answered with 200 and the leader's name, without a line end."""
    candidate.name = "pod-2"

    answer = await client.request(method, path)

    assert (answer.status, await answer.read()) == (200, b'{"name":"pod-2"}')
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["/status", "/leader", "/follower", "/healthz", "/health", "/readyz"])
async def test_another_method_on_a_known_path_is_told_the_name(candidate: Told, client: Client, path: str) -> None:
    """The other answers are for GET and HEAD alone; the stock image tells everybody else the name."""
    candidate.name = "pod-2"

    answer = await client.post(path, data=b"anything")

    assert (answer.status, await answer.read()) == (200, b'{"name":"pod-2"}')


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("", b'{"name":""}'),
        ("pod-1", b'{"name":"pod-1"}'),
        ("a<b>&c", b'{"name":"a\\u003cb\\u003e\\u0026c"}'),
        ('say "hi" \\o/', b'{"name":"say \\"hi\\" \\\\o/"}'),
        ("gr\u00fc\u00df-\u65e5\u672c", '{"name":"gr\u00fc\u00df-\u65e5\u672c"}'.encode()),
        ("a\u2028b\u2029c", b'{"name":"a\\u2028b\\u2029c"}'),
    ],
)
async def test_names_are_written_as_go_writes_them(candidate: Told, client: Client, name: str, body: bytes) -> None:
    """The body is byte for byte what Go's json.Marshal makes of the name."""
    candidate.name = name

    assert await (await client.get("/")).read() == body


async def test_every_answer_asks_anew(candidate: Told, client: Client) -> None:
    """On one open connection each answer is what holds when it is given: nothing is remembered from the last."""
    paths = ("/", "/leader", "/follower", "/healthz", "/readyz", "/status")

    async def answers() -> list[bytes]:
        return [await (await client.get(path)).read() for path in paths]

    candidate.name, candidate.leading, candidate.ready = "pod-1", True, True
    before = await answers()
    candidate.name, candidate.leading, candidate.ready, candidate.alive = "", False, False, False
    candidate.told = replace(STATUS, role="following", leader="")
    after = await answers()
    candidate.name, candidate.leading, candidate.ready, candidate.alive = "pod-1", True, True, True
    candidate.told = STATUS

    assert not set(before) & set(after)
    assert await answers() == before


async def test_leader_is_200_for_the_leader_alone(candidate: Told, client: Client) -> None:
    """`/leader` is 200 while the candidate leads, else 503, whatever its status says of its role."""
    assert (await client.get("/leader")).status == 503

    candidate.leading = True

    assert (await client.get("/leader")).status == 200
    assert (await client.head("/leader")).status == 200


@pytest.mark.parametrize(
    ("role", "status"),
    [("following", 200), ("leading", 503), ("starting", 503), ("releasing", 503), ("checking", 503)],
)
async def test_follower_is_200_for_a_follower_alone(candidate: Told, client: Client, role: str, status: int) -> None:
    """`/follower` is 200 in the role of a follower, else 503 with the role."""
    candidate.told = replace(STATUS, role=role)

    answer = await client.get("/follower")

    assert (answer.status, await answer.text()) == (status, f"{role}\n")


@pytest.mark.parametrize("path", ["/healthz", "/health"])
async def test_liveness_asks_for_nothing_but_the_loop(candidate: Told, client: Client, path: str) -> None:
    """Liveness is 200 before the lock was observed and without a leader; 503 once the loop has stalled."""
    assert (await client.get(path)).status == 200

    candidate.alive, candidate.ready, candidate.leading = False, True, True

    assert (await client.get(path)).status == 503


async def test_ready_once_the_lock_was_observed(candidate: Told, client: Client) -> None:
    """`/readyz` is 503 until the lock was observed, then 200."""
    assert (await client.get("/readyz")).status == 503

    candidate.ready = True

    assert (await client.get("/readyz")).status == 200


async def test_status_tells_all_there_is(client: Client) -> None:
    """`/status` is one JSON object with the election, the candidate, the leader and the term."""
    answer = await client.get("/status")

    assert answer.content_type == "application/json"
    assert json.loads(await answer.read()) == {
        "election": "example",
        "namespace": "default",
        "identity": "pod-1",
        "node": "node-1",
        "role": "leading",
        "leader": {"name": "pod-1", "node": "node-1"},
        "fencing_token": 4711,
        "since": "2026-01-02T03:04:05Z",
        "valid_for": 6.5,
        "transitions": 3,
        "why": "leading",
        "balance": {
            "group": "default",
            "why": "stayed: node-1 carries 1 of 1, and a move would better nothing",
            "census": {"at": "2026-01-02T03:04:05Z", "elections": 1, "nodes": {"node-1": 1, "node-2": 0}},
        },
        "last_error": "",
    }


@pytest.mark.parametrize("path", ["/", "/unknown", "/status", "/leader", "/healthz"])
async def test_no_header_says_what_serves(client: Client, path: str) -> None:
    """No header names the library or the host: scripts look for a host name anywhere in the answer."""
    answer = await client.get(path)

    assert set(answer.headers) == {"Content-Type", "Content-Length", "Date"}


@pytest.mark.parametrize(("request_line", "status", "logged"), [(b"GET / HTTP/1.1", 500, True), (b"GET", 400, False)])
async def test_only_errors_of_our_own_are_logged(
    candidate: Told,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    request_line: bytes,
    status: int,
    *,
    logged: bool,
) -> None:
    """A handler that fails is answered with 500 and logged; what is no HTTP gets 400, and cannot fill the log."""

    def fail() -> str:
        raise LookupError("a bug")

    monkeypatch.setattr(candidate, "leader_name", fail)
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        sent = request_line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = Answer.parse(await exchange("127.0.0.1", port, sent))

    assert answer.status == status
    assert bool(caplog.text) == logged


async def test_idle_connections_are_bounded(candidate: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens more connections than are kept loses the oldest; the newest is answered, and so is the next one."""
    monkeypatch.setattr(web, "CONNECTION_LIMIT", 20)
    last = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        opened = []
        for _ in range(20 + 30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append((reader, writer))
        for reader, _ in opened[:30]:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        reader, writer = opened[-1]
        writer.write(last)
        newest = Answer.parse(await asyncio.wait_for(reader.read(), 5))
        following = Answer.parse(await exchange("127.0.0.1", port, last))
        for _, writer in opened:
            writer.transport.abort()

    assert newest.body == following.body == b'{"name":""}'


async def test_connections_that_come_at_once_are_too_many_as_well(
    candidate: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit holds for a burst too, without another connection that makes it be looked at again."""
    monkeypatch.setattr(web, "CONNECTION_LIMIT", 20)
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        # They are all waiting before the server comes to accept the first.
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        opened, most = _open_descriptors(), 0
        closed = 0
        async with asyncio.timeout(20):
            while closed < 80:
                await asyncio.sleep(0)
                most = max(most, _open_descriptors() - opened)
                closed = sum(_is_closed(client) for client in clients)
        for client in clients:
            client.close()

    assert closed == 80
    assert 20 <= most <= 20 + 3 * (web.ACCEPTED_AT_ONCE + 1)


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _is_closed(client: socket.socket) -> bool:
    client.settimeout(0)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


async def test_connections_up_to_the_limit_are_kept(candidate: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is cut off before there are too many."""
    monkeypatch.setattr(web, "CONNECTION_LIMIT", 20)
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        answers = []
        for reader, writer in opened:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answers.append(Answer.parse(await asyncio.wait_for(reader.read(), 5)))
            writer.close()

    assert [answer.body for answer in answers] == [b'{"name":""}'] * 20


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])
async def test_a_connection_without_requests_is_closed(
    candidate: Told, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Whoever says nothing, begins a request and no more, or is silent after an answer, is not kept for ever."""
    monkeypatch.setattr(web, "IDLE_SECONDS", 0.2)
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)

        answer = await asyncio.wait_for(reader.read(), 20)
        writer.transport.abort()

    assert answer.endswith(b'{"name":""}' if b"\r\n\r\n" in sent else b"")


async def test_a_head_that_trickles_in_is_not_waited_for(candidate: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a head that never ends do not keep a connection open."""
    monkeypatch.setattr(web, "IDLE_SECONDS", 0.2)
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        closed = asyncio.ensure_future(reader.read())
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        async with asyncio.timeout(20):
            while not closed.done():
                writer.write(b"y")
                await asyncio.wait([closed], timeout=0.02)
        writer.transport.abort()
        # Told so, or by a reset.
        await asyncio.gather(closed, return_exceptions=True)


async def test_a_body_is_not_waited_for(candidate: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is answered without its body; where that does not come, the connection is closed soon."""
    monkeypatch.setattr(web, "LINGER_SECONDS", 0.2)
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\nabc")

        answer = Answer.parse(await asyncio.wait_for(reader.read(), 5))
        writer.transport.abort()

    assert (answer.status, answer.body) == (200, b'{"name":""}')


async def test_whoever_reads_no_answers_is_disconnected(candidate: Told) -> None:
    """Of a client that does not read its answers little more is taken; whoever reads them may ask without end."""
    ask = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with web.connections(application(candidate)) as connect:
        protocol, transport = connect(), Peer(("127.0.0.1", 1))
        assert isinstance(protocol, asyncio.Protocol)
        protocol.connection_made(transport)
        for _ in range(2):
            for _ in range(web.SENT_UNREAD // len(ask) - 1):
                protocol.data_received(ask)
                await asyncio.sleep(0)
            protocol.pause_writing()
            protocol.data_received(ask)
            assert not transport.aborted
            protocol.resume_writing()
        protocol.pause_writing()
        for _ in range(web.SENT_UNREAD // len(ask)):
            protocol.data_received(ask)
        assert not transport.aborted
        protocol.data_received(ask)
        assert transport.aborted
        protocol.connection_lost(None)


class Peer(asyncio.Transport):
    """The server's end of a connection with somebody at this address, who takes everything at once."""

    def __init__(self, address: object) -> None:
        super().__init__({"peername": address})
        self.sent = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take it."""
        self.sent += data

    def is_closing(self) -> bool:
        """Never close."""
        return False

    def pause_reading(self) -> None:
        """Send on."""

    def resume_reading(self) -> None:
        """Send on."""

    def close(self) -> None:
        """Stay open."""

    def abort(self) -> None:
        """Take note of it."""
        self.aborted = True


@pytest.mark.parametrize("expected", [b"100-continue", b"100-Continue", b"pod-1", b"", b"\xff\xfe", b"a\r\nExpect: b"])
@pytest.mark.parametrize(
    ("request_line", "body"),
    [
        (b"POST / HTTP/1.1", b'{"name":""}'),
        (b"GET /unknown HTTP/1.1", b'{"name":""}'),
        (b"CONNECT x:1 HTTP/1.1", b""),  # RFC 9110, section 9.3.6: no content
    ],
)
async def test_what_a_client_expects_changes_nothing(
    candidate: Told, caplog: pytest.LogCaptureFixture, request_line: bytes, body: bytes, expected: bytes
) -> None:
    """Whatever stands in `Expect`: the name at once, no word of it in the answer, and nothing in the log."""
    sent = b"%s\r\nHost: localhost\r\nExpect: %s\r\nConnection: close\r\n\r\n" % (request_line, expected)
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        received = await exchange("127.0.0.1", port, sent)

    answer = Answer.parse(received)
    assert (answer.status, answer.body) == (200, body)
    assert caplog.text == ""


async def test_a_tunnel_to_nowhere_is_answered(candidate: Told, caplog: pytest.LogCaptureFixture) -> None:
    """CONNECT without a target is answered like every other CONNECT, and the connection closed."""
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        received = await exchange("127.0.0.1", port, b"CONNECT \nHost: localhost\r\n\r\n")

    assert received.startswith(b"HTTP/0.9 200 OK\r\n")
    assert caplog.text == ""


async def test_a_body_is_not_unpacked(candidate: Told) -> None:
    """A body is dropped as it came, so that a small one cannot become a large one; the next request is answered."""
    packed = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"
    last = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        received = await exchange("127.0.0.1", port, packed + last)

    assert received.count(b'{"name":""}') == 2


async def test_where_it_listens_is_told(candidate: Told) -> None:
    """`serving` yields the ports, which port 0 leaves to the system, and listens no more after the block."""
    async with web.serving(application(candidate), "127.0.0.1", 0) as ports:
        (port,) = ports
        with pytest.raises(OSError, match="in use"):
            async with web.serving(application(candidate), "127.0.0.1", port):
                pass  # it never comes to this

    async with web.serving(application(candidate), "127.0.0.1", port) as again:
        assert again == [port]


# -- /events -----------------------------------------------------------------------------------------------------------

FOLLOW = b"GET /events HTTP/1.1\r\nHost: localhost\r\n"


async def follow(port: int, *headers: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for the events, and read the head of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(FOLLOW + b"".join(header + b"\r\n" for header in headers) + b"\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    return reader, writer


async def an_event(reader: asyncio.StreamReader) -> dict[str, Any]:
    """Return the next event that is told in chunks, with its id."""
    async with asyncio.timeout(10):
        while True:
            size = int(await reader.readline(), 16)
            chunk = (await reader.readexactly(size + 2)).decode()
            fields = dict(line.split(": ", 1) for line in chunk.splitlines() if ": " in line)
            if "data" in fields:
                return {"id": fields["id"], **json.loads(fields["data"])}


async def test_events_are_told_in_chunks(candidate: Told) -> None:
    """The head is that of an event stream, closed when it ends; then the present state and each change."""
    candidate.change(leader="pod-2")
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(FOLLOW + b"\r\n")
        head = Answer.parse(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10))
        first = await an_event(reader)
        candidate.change(leader="pod-1", token=4711, role="leading")
        second = await an_event(reader)
        back, other = await follow(port, b"Last-Event-ID: " + first["id"].encode())
        missed = await an_event(back)
        for one in (writer, other):
            one.transport.abort()

    assert {name: value for name, value in head.headers.items() if name != "date"} == {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        "transfer-encoding": "chunked",
        "connection": "close",
    }
    start = first["id"].removesuffix("-1")
    assert first == {
        "id": f"{start}-1",
        "name": "pod-2",
        "leading": False,
        "fencing_token": None,
        "role": "following",
    }
    assert second == missed
    assert second == {
        "id": f"{start}-2",
        "name": "pod-1",
        "leading": True,
        "fencing_token": 4711,
        "role": "leading",
    }


async def test_two_processes_have_different_ids(candidate: Told) -> None:
    """An id says of which process it is, so that another one does not take it for its own."""
    ids = []
    for _ in range(2):
        async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
            reader, writer = await follow(port)
            ids.append((await an_event(reader))["id"])
            writer.transport.abort()

    assert ids[0] != ids[1]


async def test_events_for_an_old_client(candidate: Told) -> None:
    """HTTP/1.0 knows no chunks: the events come as they are, until the connection is closed."""
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /events HTTP/1.0\r\n\r\n")
        answer = Answer.parse(await asyncio.wait_for(reader.readuntil(b'"role":"leading"}\n\n'), 10))
        writer.transport.abort()

    assert answer.body.startswith(b"retry: 1000\nid: ")
    assert "transfer-encoding" not in answer.headers


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "OPTIONS", "PROPFIND"])
async def test_other_methods_on_events_are_told_the_name(candidate: Told, client: Client, method: str) -> None:
    """Events are for GET alone, and HEAD with a stream that never ends is of no use to anybody."""
    candidate.name = "pod-2"

    answer = await client.request(method, "/events")

    assert (answer.status, answer.content_type) == (200, "application/json")
    assert await answer.read() == (b"" if method == "HEAD" else b'{"name":"pod-2"}')


async def test_the_end_of_the_server_ends_the_stream(candidate: Told) -> None:
    """A reader gets the last event and the regular end of an answer in chunks."""
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        reader, writer = await follow(port)
        await an_event(reader)
        candidate.change(leader="", role="releasing")

    rest = await asyncio.wait_for(reader.read(), 10)
    writer.transport.abort()
    assert b'"role":"releasing"}\n\n' in rest
    assert rest.endswith(b"\r\n0\r\n\r\n")


async def test_readers_do_not_count_as_connections(candidate: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers stay however many other connections come, and the other way round; each kind has its own limit."""
    monkeypatch.setattr(web, "CONNECTION_LIMIT", 5)
    monkeypatch.setattr(stream, "READER_LIMIT", 20)
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        readers = [await follow(port) for _ in range(20)]
        for reader, _ in readers:
            await an_event(reader)
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for reader, _ in idle[:5]:
            assert await asyncio.wait_for(reader.read(), 10) == b""
        candidate.change(leader="pod-3")
        told = [(await an_event(reader))["name"] for reader, _ in readers]
        readers.append(await follow(port))
        with pytest.raises(asyncio.IncompleteReadError):
            await asyncio.wait_for(readers[0][0].readuntil(b"never"), 10)
        for _, writer in [*readers, *idle]:
            writer.transport.abort()

    assert told == ["pod-3"] * 20


async def test_a_reader_that_goes_is_forgotten(candidate: Told) -> None:
    """When the other end closes the connection, nothing of it is kept, whatever was sent over it before."""
    app = application(candidate)
    async with web.serving(app, "127.0.0.1", 0) as (port,):
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50, b"\0" * 100_000):
            reader, writer = await follow(port)
            await an_event(reader)
            writer.write(sent)
            await writer.drain()
            assert len(app[web.STREAM]) == 1
            writer.close()
            await until(lambda: not len(app[web.STREAM]) and not app[web.READING], "it is forgotten")


async def test_what_comes_after_the_request_is_dropped(candidate: Told) -> None:
    """A body, other requests and anything else: the stream goes on, and nothing of it is answered or kept."""
    async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
        reader, writer = await follow(port, b"Content-Length: 10000000000")
        await an_event(reader)
        for number in range(50):
            writer.write(b"GET /status HTTP/1.1\r\nX: " + b"y" * 2**16)
            await asyncio.wait_for(writer.drain(), 10)
            candidate.change(leader=f"pod-{number}")
            assert (await an_event(reader))["name"] == f"pod-{number}"
        writer.transport.abort()


async def test_a_reader_that_does_not_read_is_dropped(candidate: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is bounded, however much changes; it is disconnected, and the others are told everything."""
    monkeypatch.setattr(stream, "BEHIND_SECONDS", 0.2)
    monkeypatch.setattr(stream, "CATCH_UP_SECONDS", 0.05)
    app = application(candidate)
    async with web.serving(app, "127.0.0.1", 0) as (port,):
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", port))
        stuck.sendall(FOLLOW + b"\r\n")
        reader, writer = await follow(port)
        await an_event(reader)
        await until(lambda: len(app[web.STREAM]) == 2, "both are told")
        number = 0
        async with asyncio.timeout(30):
            while len(app[web.STREAM]) == 2:
                number += 1
                candidate.change(leader=f"pod-{number}-{'x' * 200}")
                assert (await an_event(reader))["name"].startswith(f"pod-{number}-")
                if number > 2000:
                    await asyncio.sleep(0.01)
        stuck.close()
        writer.transport.abort()


# -- /release, and where it may come from ------------------------------------------------------------------------------


@pytest.mark.parametrize("leads", [True, False])
async def test_release_steps_down(candidate: Told, client: Client, *, leads: bool) -> None:
    """A POST from this pod has the candidate step down, and tells whether it led."""
    candidate.leading = leads

    answer = await client.post("/release", data=b"anything")

    assert (answer.status, answer.content_type) == (200, "application/json")
    assert await answer.json() == {"released": leads}
    assert candidate.orders == ["was asked to step down on port 4040"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_release_is_for_post_alone(candidate: Told, client: Client, method: str) -> None:
    """Any other method is told the name, and nothing happens."""
    candidate.name = "pod-2"

    answer = await client.request(method, "/release")

    assert answer.status == 200
    assert await answer.read() == (b"" if method == "HEAD" else b'{"name":"pod-2"}')
    assert candidate.orders == []


@pytest.mark.parametrize("origin", ["http://localhost:4040", "https://elsewhere.example", "null", ""])
async def test_release_is_not_for_pages(candidate: Told, client: Client, origin: str) -> None:
    """A browser on this machine may be led here by any page; it says so, and is refused."""
    answer = await client.post("/release", headers={"Origin": origin})

    assert (answer.status, await answer.text()) == (403, "only for programs in this pod\n")
    assert candidate.orders == []


async def test_release_is_not_for_others(candidate: Told) -> None:
    """From an address that is not a loopback one it is refused, over IPv4 and IPv6, whoever it claims to be."""
    addresses = _own_addresses()
    if not addresses:
        pytest.skip("this machine has no other address than loopback ones")
    forged = b"X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nHost: localhost\r\n"
    async with web.serving(application(candidate), None, 0) as (port,):
        for address in addresses:
            sent = b"POST /release HTTP/1.1\r\n" + forged + b"Connection: close\r\n\r\n"
            assert Answer.parse(await exchange(address, port, sent)).status == 403
        assert candidate.orders == []
        for address in ("127.0.0.1", "127.8.9.10", *(["::1"] if socket.has_dualstack_ipv6() else [])):
            assert Answer.parse(await exchange(address, port, sent)).status == 200
    assert candidate.orders


def _own_addresses() -> list[str]:
    """Return the addresses of this machine from which it would talk to somebody else."""
    found = []
    for family, elsewhere in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.connect((elsewhere, 9))
            found.append(str(probe.getsockname()[0]))
    return found


@pytest.mark.parametrize(
    ("peer", "near"),
    [
        (("127.0.0.1", 1), True),
        (("127.255.0.9", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("::ffff:10.0.0.1", 1, 0, 0), False),
        (("::127.0.0.1", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 2), False),
        (("128.0.0.1", 1), False),
        (("10.0.0.1", 1), False),
        (("::", 1, 0, 0), False),
        ("", False),
        (None, False),
    ],
)
async def test_what_comes_from_this_pod(candidate: Told, peer: object, *, near: bool) -> None:
    """Whoever is at a loopback address, in whatever form it is told, is in this pod; nobody else is."""
    async with web.connections(application(candidate)) as connect:
        protocol, transport = connect(), Peer(peer)
        assert isinstance(protocol, asyncio.Protocol)
        protocol.connection_made(transport)
        protocol.data_received(b"POST /release HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await until(lambda: transport.sent, "it is answered")
        protocol.connection_lost(None)

    assert transport.sent.startswith(b"HTTP/1.1 200 " if near else b"HTTP/1.1 403 ")
    assert bool(candidate.orders) is near


# -- /metrics, /openapi.json and the further addresses -----------------------------------------------------------------


async def test_metrics_and_the_description(client: Client) -> None:
    """`/metrics` is Prometheus' text in the type that says so; `/openapi.json` is the file, to the byte."""
    metrics, description = await client.get("/metrics"), await client.get("/openapi.json")

    assert (metrics.status, await metrics.read()) == (200, METRICS)
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert description.content_type == "application/json"
    assert await description.read() == Path(web.__file__).with_name("openapi.json").read_bytes()


@pytest.mark.parametrize(("probes", "metrics"), [(True, False), (False, True), (True, True)])
async def test_a_further_address_answers_what_it_is_for(candidate: Told, *, probes: bool, metrics: bool) -> None:
    """Probes, metrics or both, with GET and HEAD; 404 to all else, the name included, and nothing can be done there."""
    candidate.name = "pod-2"
    expected = dict.fromkeys(
        ("/", "/status", "/leader", "/events", "/release", "/openapi.json", "/healthz/", "/x"), 404
    )
    expected |= dict.fromkeys(("/healthz", "/health"), 200 if probes else 404)
    expected |= {"/readyz": 503 if probes else 404, "/metrics": 200 if metrics else 404}
    app = web.further(election_of(candidate), probes=probes, metrics=metrics)
    async with TestClient(TestServer(app)) as client:
        for path, status in expected.items():
            for method in ("GET", "HEAD", "POST", "PROPFIND"):
                answer = await client.request(method, path)
                text = await answer.text()
                assert (path, method, answer.status) == (path, method, status if method in ("GET", "HEAD") else 404)
                assert "Server" not in answer.headers
                assert "pod-2" not in text
    assert candidate.orders == []


async def test_a_tunnel_at_a_further_address(candidate: Told) -> None:
    """What has no path is answered with 404 as well."""
    app = web.further(election_of(candidate), probes=True, metrics=True)
    async with web.serving(app, "127.0.0.1", 0) as (port,):
        received = await exchange("127.0.0.1", port, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 404 ")


async def test_connections_to_a_further_address_are_bounded(candidate: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """There too, the oldest goes."""
    monkeypatch.setattr(web, "FURTHER_LIMIT", 5)
    app = web.further(election_of(candidate), probes=True, metrics=True)
    async with web.serving(app, "127.0.0.1", 0) as (port,):
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for reader, _ in opened[:3]:
            assert await asyncio.wait_for(reader.read(), 10) == b""
        received = await exchange("127.0.0.1", port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for _, writer in opened:
            writer.transport.abort()

    assert Answer.parse(received).status == 200
