"""The answers on the HTTP port, by a candidate that says what the test tells it to."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from sidecar import web
from sidecar.balance import Census, Election
from sidecar.candidate import Candidate, Status
from sidecar.census import Taken
from tests.testbed.sidecar import Answer, exchange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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


class Told:
    """A candidate that is in the state that it was told."""

    def __init__(self) -> None:
        self.name = ""
        self.leading = False
        self.ready = False
        self.alive = True
        self.told = STATUS

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


def application(candidate: Told) -> Application:
    """Return what answers for the candidate."""
    election = web.Election(
        name="example", namespace="default", group="default", candidate=cast("Candidate", candidate)
    )
    return web.application(election)


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
