"""The port as scripts, probes and strangers meet it: every byte of the answers of a running program."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.testbed.connection import write_kubeconfig
from tests.testbed.sidecar import Answer, Sidecar, Sidecars, exchange, until

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

    from tests.testbed.embedded import EmbeddedForTests

NOBODY = b'{"name":""}'

METHODS = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "PROPFIND",
    "MKCOL",
    "REPORT",
    "PURGE",
    "SEARCH",
]

ODD_PATHS = [
    "/",
    "//",
    "/%00",
    "/%zz",
    "/%2e%2e/",
    "/../..",
    "/?",
    "/?name=a#b",
    "/unknown",
    "/status/",
    "/leader/",
    "/healthz/x",
    "/Status",
    "/metrics/",
    "/events/",
    "/Events",
    "/release",
    "/openapi.yaml",
    "/" + "a/" * 4000,
    "http://elsewhere.example/x",
]

NO_HTTP = {
    "nothing but a line end": b"\r\n",
    "words": b"give me the leader\r\n\r\n",
    "a method that nobody registered": b"ELECT / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(1000),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a tunnel to nowhere": b"CONNECT \nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a version that does not exist": b"GET / HTTP/7.3\r\nHost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "blanks in the path": b"GET /a b c HTTP/1.1\r\nHost: x\r\n\r\n",
    "a request line without end": b"GET /" + b"a" * 300_000,
    "a header without end": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300_000,
    "a thousand headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a bad chunk": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a body that is no gzip": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    "an upgrade": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\0\0\0",
    "a large body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n" + b"a" * 8_000_000,
}


@pytest.fixture
def lonely(sidecars: Sidecars, tmp_path: Path) -> Sidecar:
    """A candidate with an API server that refuses connections."""
    kubeconfig = write_kubeconfig(tmp_path / "nowhere", url="http://127.0.0.1:1", ca_file=None, token="none")
    return sidecars.start(election="example", identity="web-0.team", ttl="60s", kubeconfig=kubeconfig)


# -- GET / -------------------------------------------------------------------------------------------------------------


async def test_every_path_is_told_the_name(lonely: Sidecar) -> None:
    """`/` and whatever else is asked for: status 200, the body to the byte, `application/json`."""
    await lonely.answering()

    for path in ODD_PATHS:
        answer = await lonely.ask(path)

        assert (path, answer.status, answer.body) == (path, 200, NOBODY)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["content-length"] == "11"


async def test_every_method_is_told_the_name(lonely: Sidecar) -> None:
    """Any registered method, with or without a body, is told the name; HEAD gets the same without the body."""
    await lonely.answering()

    for method in METHODS:
        for body in (b"", b'{"name":"somebody else"}', b"\0" * 100_000):
            answer = await lonely.ask("/unknown", method, body=body)
            assert (method, answer.status, answer.body) == (method, 200, NOBODY)
    head = await lonely.ask("/", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert (head.headers["content-type"], head.headers["content-length"]) == ("application/json", "11")


@pytest.mark.parametrize("reachable", [False, True])
async def test_it_answers_before_the_first_contact(sidecars: Sidecars, tmp_path: Path, *, reachable: bool) -> None:
    """While the API server refuses connections, or takes them and says nothing: nobody leads, and it says so."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1] if reachable else 1}"
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", url=url, ca_file=None, token="none")
        sidecar = sidecars.start(election="example", identity="a", ttl="60s", kubeconfig=kubeconfig)
        await sidecar.answering()

        assert (await sidecar.ask()).body == NOBODY
        assert (await sidecar.status())["role"] == "starting"
        for path, status in {"/leader": 503, "/follower": 503, "/readyz": 503, "/healthz": 200, "/health": 200}.items():
            assert (path, (await sidecar.ask(path)).status) == (path, status)


async def test_a_follower_does_not_say_its_own_name(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """A script that looks for its host's name in the answer, headers included, finds it on the leader alone."""
    start = partial(sidecars.start, election="example", ttl="60s", kubeconfig=embedded.admin_kubeconfig)
    leader = start(identity="web-0")
    await leader.leading()
    follower = start(identity="web-1", env={"POD_NAME": "web-1", "NODE_NAME": "node-web-1"})
    await follower.naming("web-0")

    for path in ODD_PATHS:
        raw = (await follower.ask(path)).raw
        assert b"web-1" not in raw
        assert socket.gethostname().encode() not in re.sub(rb"\r\nDate: [^\r]+", b"", raw)
        assert raw.endswith(b'\r\n\r\n{"name":"web-0"}')
        assert (await leader.ask(path)).raw.endswith(b'\r\n\r\n{"name":"web-0"}')
    assert set((await follower.ask()).headers) == {"content-type", "content-length", "date", "connection"}


async def test_names_are_escaped_as_go_does(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """A name that JSON or HTML would trip over is written as Go writes it, and read back by a follower as it was."""
    bodies = {
        "a<b>&c": rb'{"name":"a\u003cb\u003e\u0026c"}',
        """say "hi" it's""": rb"""{"name":"say \"hi\" it's"}""",
        "back\\slash": rb'{"name":"back\\slash"}',
        "gr\u00fc\u00df-\u65e5\u672c-\U0001f451": '{"name":"gr\u00fc\u00df-\u65e5\u672c-\U0001f451"}'.encode(),
    }
    start = partial(sidecars.start, ttl="60s", kubeconfig=embedded.admin_kubeconfig)
    leaders = {name: start(election=f"example-{number}", flags=[f"--id={name}"]) for number, name in enumerate(bodies)}
    for name, leader in leaders.items():
        await leader.naming(name)
    followers = {name: start(election=f"example-{number}", identity="b") for number, name in enumerate(bodies)}
    for name, body in bodies.items():
        await followers[name].naming(name)
        for sidecar in (leaders[name], followers[name]):
            answer = await sidecar.ask()
            assert answer.body == body
            assert answer.headers["content-length"] == str(len(body))


async def test_one_connection_is_told_of_every_change(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """On a connection that stays open, the next answer is the next leader's name."""
    start = partial(sidecars.start, election="example", ttl="60s", kubeconfig=embedded.admin_kubeconfig)
    first, second = start(identity="a"), start(identity="b")
    await asyncio.gather(first.answering(), second.answering())
    await until(lambda: first.logged("leading") or second.logged("leading"), "somebody leads")
    leader, follower = (first, second) if first.logged("leading") else (second, first)
    await follower.naming(leader.identity)
    reader, writer = await asyncio.open_connection("127.0.0.1", follower.port)

    async def asked() -> str:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        answer = Answer.parse(head)
        body = await reader.readexactly(int(answer.headers["content-length"]))
        return str(json.loads(body)["name"])

    try:
        assert await asked() == leader.identity
        assert await leader.terminate() == 0
        await follower.leading()
        assert await asked() == follower.identity
    finally:
        writer.transport.abort()


# -- The other paths, in each role -------------------------------------------------------------------------------------


async def test_what_each_role_answers(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """Leading, following and releasing: `/status`, `/leader`, `/follower`, `/readyz` and `/healthz` say which."""
    async with AsyncExitStack() as hanging:
        start = partial(
            sidecars.start, election="example", namespace="default", ttl="60s", kubeconfig=embedded.admin_kubeconfig
        )
        leader = start(identity="a", env={"NODE_NAME": "node-1"})
        await leader.leading()
        follower = start(identity="b", env={"NODE_NAME": "node-2"})
        await follower.naming("a")

        led, followed = await leader.status(), await follower.status()
        common = {"election": "example", "namespace": "default", "leader": {"name": "a", "node": "node-1"}}
        assert led == led | common | {"identity": "a", "node": "node-1", "role": "leading", "transitions": 0}
        assert followed == followed | common | {"identity": "b", "node": "node-2", "role": "following"}
        assert led["fencing_token"] > 0
        assert followed["fencing_token"] is None
        assert 0 < led["valid_for"] <= 40
        assert followed["valid_for"] == 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", led["since"])
        assert (followed["since"], led["last_error"], followed["last_error"]) == ("", "", "")
        assert await codes(leader) == {"/leader": 200, "/follower": 503, "/readyz": 200, "/healthz": 200}
        assert await codes(follower) == {"/leader": 503, "/follower": 200, "/readyz": 200, "/healthz": 200}

        released = asyncio.Event()
        hanging.callback(released.set)

        async def hang(_: web.Request) -> None:
            await released.wait()

        embedded.server.before_request = hang
        leader.signal(signal.SIGTERM)
        await leader.naming("")
        assert (await leader.status())["role"] == "releasing"
        assert await codes(leader) == {"/leader": 503, "/follower": 503, "/readyz": 200, "/healthz": 200}
        embedded.server.before_request = None
    assert await leader.ended() == 0
    await follower.leading()


async def codes(sidecar: Sidecar) -> dict[str, int]:
    """Return the status with which each of these paths is answered."""
    return {path: (await sidecar.ask(path)).status for path in ("/leader", "/follower", "/readyz", "/healthz")}


async def test_liveness_does_not_ask_for_the_api_server(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """With the API server gone, long after the lease ran out: `/` names nobody, and the process is still live."""
    start = partial(sidecars.start, election="example", ttl="1s", kubeconfig=embedded.admin_kubeconfig)
    leader = start(identity="a")
    await leader.leading()
    follower = start(identity="b")
    await follower.naming("a")

    await embedded.server.stop()
    await asyncio.gather(leader.naming(""), follower.naming(""))

    for sidecar in (leader, follower):
        told = (await sidecar.status())["last_error"]
        await until(partial(_has_other_error, sidecar, told), "it has tried again a second later")
        for path in ("/healthz", "/health", "/readyz"):
            assert (await sidecar.ask(path)).status == 200
        assert (await sidecar.ask()).body == NOBODY
    await embedded.server.start()
    await until(partial(_somebody, leader, follower), "somebody leads again")


async def _has_other_error(sidecar: Sidecar, told: str) -> bool:
    return bool((await sidecar.status())["last_error"] != told)


async def _somebody(*candidates: Sidecar) -> bool:
    return any([await candidate.names_itself() for candidate in candidates])


# -- Strangers ---------------------------------------------------------------------------------------------------------


async def test_what_is_no_http_disturbs_nobody(lonely: Sidecar) -> None:
    """Whatever is sent: what is answered is 400 or the name, the next one is answered, the log has no word of it."""
    await lonely.answering()

    for what, sent in NO_HTTP.items():
        reader, writer = await asyncio.open_connection("127.0.0.1", lonely.port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(100), 2) if sent.strip() else b""
        writer.transport.abort()
        assert answer[:12] in (b"HTTP/1.0 400", b"HTTP/1.1 200", b"HTTP/0.9 200", b""), what
        assert (await lonely.ask()).body == NOBODY

    assert await lonely.terminate() == 0
    assert [line for line in lonely.lines() if "logger" in line or line["level"] in ("error", "critical")] == []


async def test_half_a_request_holds_nobody_up(lonely: Sidecar) -> None:
    """Connections that never finish their request do not keep the others from being answered."""
    await lonely.answering()
    halves = [await asyncio.open_connection("127.0.0.1", lonely.port) for _ in range(20)]
    for number, (_, writer) in enumerate(halves):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"[: 1 + 3 * number])

    assert (await lonely.ask()).body == NOBODY

    for _, writer in halves:
        writer.transport.abort()


async def test_idle_connections_disturb_nobody(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """With 200 idle connections open, a leader answers, renews, releases and ends as ever."""
    leader = sidecars.start(election="example", identity="a", ttl="1s", kubeconfig=embedded.admin_kubeconfig)
    await leader.leading()
    idle = [await asyncio.open_connection("127.0.0.1", leader.port) for _ in range(200)]
    renewed = embedded.server.requests["update", "endpoints"]

    await until(lambda: embedded.server.requests["update", "endpoints"] >= renewed + 5, "the leader renews")

    assert await leader.names_itself()
    assert len(leader.logged("leading")) == 1
    assert await leader.terminate() == 0
    assert leader.logged("the lock was released")
    for _, writer in idle:
        writer.transport.abort()


async def test_requests_in_a_row_are_all_answered(lonely: Sidecar) -> None:
    """Requests that are sent without waiting for the answers are answered one after the other."""
    await lonely.answering()
    sent = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9 + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    received = await exchange("127.0.0.1", lonely.port, sent)

    assert received.count(NOBODY) == 10
