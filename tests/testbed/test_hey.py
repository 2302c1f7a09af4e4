"""What is read of a load generator's report, and a load that it sends."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.testbed import golang, hey
from tests.testbed.hey import HeyError, Target
from tests.testbed.sidecar import until


def printed(**changes: Any) -> str:  # noqa: ANN401 - JSON
    """Return what the program prints of four requests."""
    errors = {
        'Put "http://a/kv/1": dial tcp 10.0.0.1:80: connect: connection refused': 1,
        'Put "http://a/kv/1": read tcp 10.0.0.2:5->10.0.0.1:80: connect: connection refused': 1,
    }
    told = {"seconds": 2.5, "requests": 6, "errors": errors, "latencies": [0.4, 0.001, 0.2, 0.3]}
    return json.dumps({**told, "statuses": [200, 503, 200, 200], **changes})


def test_a_report_is_read() -> None:
    """Only what was answered 200 counts; the rest is told by status, or by what happened."""
    result = hey.parse(printed())
    assert (result.seconds, result.requests) == (2.5, 6)
    assert result.latencies == [0.2, 0.3, 0.4]
    assert result.failures == {"503": 1, "connection refused": 2}


@pytest.mark.parametrize(("percent", "seconds"), [(1, 1.0), (50, 2.0), (75, 3.0), (76, 4.0), (99, 4.0), (100, 4.0)])
def test_a_percentile_is_a_time_within_which_so_many_were_answered(percent: float, seconds: float) -> None:
    """It is the smallest time of a request that holds for so many of them."""
    assert hey.Result(seconds=4, requests=4, latencies=[1.0, 2.0, 3.0, 4.0], failures={}).percentile(percent) == seconds


def test_of_no_answer_there_is_no_percentile() -> None:
    """A load that nobody answered has no latency, rather than one of zero."""
    result = hey.parse(printed(requests=2, latencies=[], statuses=[]))
    assert result.percentile(50) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Usage: hey [options...] <url>",
        "[]",
        printed(requests=7),
        printed(statuses=[200]),
        printed(errors=None),
        printed(latencies=None),
    ],
)
def test_what_is_no_report_is_an_error_of_one_line(text: str) -> None:
    """Requests that are missing from a report are not overlooked."""
    with pytest.raises(HeyError) as raised:
        hey.parse(text)
    assert "\n" not in str(raised.value)


def test_a_load_has_an_end_of_one_kind() -> None:
    """It ends after so many requests, or after so many seconds."""
    assert "-n=20" in hey.command(Target(url="http://a", clients=4, requests=20), Path("body"))
    lasting = hey.command(Target(url="http://a", clients=4, seconds=1.5, keep_alive=False), Path("body"))
    assert {"-z=1.5s", "-disable-keepalive"} < set(lasting)


@pytest.mark.real
async def test_a_load_is_sent() -> None:
    """Every client sends its share of the requests, each with the body, and each target has a result."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(503 if self.path == "/refused" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            targets = [Target(url=f"{base}/{path}", clients=2, requests=10) for path in ("stored", "refused")]
            with hey.putting(targets, body=b"value", limit=60) as loads:
                await until(loads.done, "all loads have ended", seconds=60)
                stored, refused = loads.results()
        finally:
            server.shutdown()
            thread.join()
    assert bodies == [b"value"] * 20
    assert (len(stored.latencies), stored.failures) == (10, {})
    assert (len(refused.latencies), refused.failures) == (0, {"503": 10})


def test_the_version_is_the_one_that_is_built() -> None:
    """The version that a report tells is the one of go.mod, not a copy of it."""
    assert hey.version().startswith("v")
    assert golang.digest(hey.MODULE)
