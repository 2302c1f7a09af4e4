"""openapi.json describes what is answered on the HTTP port: all of it, and nothing else."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks

from sidecar import stream, web
from tests.unit.test_web import STATUS, Told, application, election_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp.web import Application


DESCRIPTION: dict[str, Any] = json.loads(files("sidecar").joinpath("openapi.json").read_text(encoding="utf-8"))

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
"""All that OpenAPI 3.1 can describe."""

CONFORMANCE = [
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]

OWN_NAME = "own-name-7f3a"
"""The candidate's, which a script looks for in every answer."""

ROLES = {
    "starting": replace(STATUS, role="starting", leader="", leader_node="", fencing_token=None, since="", valid_for=0.0,
                        transitions=None, placing="", census=None, last_error="2026-01-02T03:04:05Z GET: no answer"),
    "following": replace(STATUS, role="following", leader="web-0", fencing_token=None, since="", valid_for=0.0),
    "checking": replace(STATUS, role="checking", leader="", fencing_token=None, since="", valid_for=0.0),
    "leading": replace(STATUS, role="leading", leader=OWN_NAME, fencing_token=2**64 - 1),
    "releasing": replace(STATUS, role="releasing", leader="", fencing_token=None, since="", valid_for=0.0),
}  # fmt: skip


def candidate_in(role: str) -> Told:
    """Return a candidate in this role."""
    candidate = Told()
    candidate.told = replace(ROLES[role], identity=OWN_NAME)
    candidate.name = candidate.told.leader
    candidate.leading = role == "leading"
    candidate.ready = candidate.alive = role != "starting"
    return candidate


@contextmanager
def served(candidate: Told) -> Iterator[str]:
    """Answer for a candidate on a port of this machine, in a thread, because schemathesis waits for answers."""
    loop = asyncio.new_event_loop()
    url, ended = asyncio.Future[str](loop=loop), asyncio.Event()
    started = threading.Event()

    async def serve() -> None:
        async with web.serving(application(candidate), "127.0.0.1", 0) as (port,):
            url.set_result(f"http://127.0.0.1:{port}")
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        assert started.wait(10)
        yield url.result()
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def conforms(case: schemathesis.Case[Any], url: str, **request: Any) -> Any:  # noqa: ANN401 - the answer
    """Send a request; fail unless its answer is one that is described. Return it."""
    load_all_checks()
    known: Any = schemathesis.checks.CHECKS
    answer = case.call(base_url=url, **request)
    case.validate_response(answer, checks=[known.get_one(name) for name in CONFORMANCE])
    return answer


def operations() -> list[Any]:
    """Return everything that is described and has an end: all but `/events`."""
    schema: Any = schemathesis.openapi.from_dict(DESCRIPTION)
    found = [result.ok() for result in schema.get_all_operations()]
    return [operation for operation in found if operation.path != "/events"]


def routes_of(app: Application) -> set[tuple[str, str]]:
    """Return the paths and methods that an application has routes for."""
    routes: set[tuple[str, str]] = set()
    for route in app.router.routes():
        assert route.resource is not None
        methods = METHODS if route.method == "*" else (route.method,)
        routes |= {(route.resource.canonical, method) for method in methods}
    return routes


def described(server: str = "") -> set[tuple[str, str]]:
    """Return the paths and methods that are described; with `server` those alone that this kind of server has."""
    return {
        (path, method)
        for path, item in DESCRIPTION["paths"].items()
        for method in map(str.upper, item)
        if method in METHODS
        and (not server or any(server in one.get("description", "") for one in item.get("servers", [])))
    }


def test_paths_are_the_routes() -> None:
    """Every route is described and every path that is described has its route, method by method."""
    # What another route does not take, the last one does.
    routes = routes_of(application(Told())) | {("/", method) for method in METHODS}

    assert described() == routes


@pytest.mark.parametrize(
    ("flags", "probes", "metrics"),
    [
        (["--probe-address"], True, False),
        (["--metrics-address"], False, True),
        (["--probe-address", "--metrics-address"], True, True),
    ],
)
def test_paths_of_further_addresses_are_their_routes(flags: list[str], *, probes: bool, metrics: bool) -> None:
    """The same for the further addresses, whose last route is that of whatever they do not answer."""
    routes = routes_of(web.further(election_of(Told()), probes=probes, metrics=metrics))

    unknown = {(path, method) for path, method in routes if path == "/{unknown}"}
    assert unknown == {("/{unknown}", method) for method in METHODS}
    assert routes - unknown == set().union(*map(described, flags))


def test_what_it_says_of_limits() -> None:
    """The figures in the description are the program's."""
    told = DESCRIPTION["info"]["description"]

    assert f"for {web.IDLE_SECONDS:g} seconds is closed" in told
    assert f"once there are {web.CONNECTION_LIMIT}." in told
    assert f"At a further address there may be {web.FURTHER_LIMIT}." in told
    assert f"there may be {stream.READER_LIMIT}, and beyond that the oldest" in told
    events = DESCRIPTION["paths"]["/events"]["get"]
    assert (
        f"for {stream.HEARTBEAT_SECONDS:g} to {stream.HEARTBEAT_SECONDS + stream.ROUND_SECONDS:g} seconds.\n"
        in events["description"]
    )
    assert f"takes nothing for {stream.BEHIND_SECONDS:g} seconds is" in events["description"]
    assert f"up to the last {stream.REMEMBERED}, " in events["parameters"][0]["description"]


@pytest.mark.parametrize("role", ROLES)
def test_events_in_every_role_are_as_described(role: str) -> None:
    """The stream begins with how the election stands, by the schema, and with no word of who tells it unless it leads.

    The example in the description is one too.
    """
    roles = DESCRIPTION["components"]["schemas"]["Standing"]["properties"]["role"]["enum"]
    content = DESCRIPTION["components"]["responses"]["Events"]["content"]
    with served(candidate_in(role)) as url, closing(HTTPConnection(urlsplit(url).netloc, timeout=10)) as connection:
        connection.request("GET", "/events")
        answer = connection.getresponse()
        lines = [answer.readline().decode() for _ in range(4)]

    assert (answer.status, answer.headers["Content-Type"], answer.headers["Cache-Control"]) == (
        200,
        *content,
        "no-store",
    )
    assert [line.partition(":")[0] for line in lines] == ["retry", "id", "data", "\n"]
    told = json.loads(lines[2].removeprefix("data: "))
    assert OWN_NAME not in "".join([*lines, *answer.headers.values()]) or role == "leading"
    example = content["text/event-stream"]["example"]
    shown = [json.loads(line.removeprefix("data: ")) for line in example.splitlines() if line.startswith("data: ")]
    for one in (told, *shown):
        _check_all_is_described(one, {"$ref": "#/components/schemas/Standing"})
        assert isinstance(one["name"], str)
        assert one["role"] in roles
        assert one["leading"] is (one["role"] == "leading") is isinstance(one["fencing_token"], int)


@pytest.mark.parametrize("role", ROLES)
def test_answers_in_every_role_are_as_described(role: str) -> None:
    """Each path and method, asked of a candidate in each role, is answered with what is described for it."""
    with served(candidate_in(role)) as url:
        for operation in operations():
            answer = conforms(operation.Case(path_parameters={"unknown": "a/b"}), url)
            if (operation.path, operation.method.upper()) == ("/status", "GET"):
                _check_all_is_described(answer.json(), {"$ref": "#/components/schemas/Status"})


def _check_all_is_described(value: object, schema: dict[str, Any]) -> None:
    """Fail where an object has a field that the schema does not know."""
    if "$ref" in schema:
        schema = DESCRIPTION["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "oneOf" in schema and value is not None:
        _check_all_is_described(value, schema["oneOf"][1])
    elif isinstance(value, dict) and "properties" in schema:
        assert value.keys() == schema["properties"].keys()
        for key, part in value.items():
            _check_all_is_described(part, schema["properties"][key])


@pytest.mark.parametrize("role", ["following", "leading"])
def test_whatever_is_asked_is_answered_as_described(role: str) -> None:
    """Any path, query, header and body: a documented answer, and no word of who answers unless it leads."""
    cases = st.one_of([operation.as_strategy() for operation in operations()])
    words = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), max_size=60)
    names = st.from_regex(r"\A[A-Za-z][A-Za-z-]{0,20}\Z").map(lambda name: f"X-{name}")
    requests = st.fixed_dictionaries(
        {},
        optional={
            "headers": st.dictionaries(names, words, max_size=4),
            "params": st.dictionaries(words, words, max_size=4),
            "data": st.binary(max_size=2000),
        },
    )

    with served(candidate_in(role)) as url:

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(cases, requests)
        def ask(case: schemathesis.Case[Any], request: dict[str, Any]) -> None:
            answer = conforms(case, url, **request)
            told = json.dumps(dict(answer.headers), default=str) + answer.content.decode()
            assert "server" not in answer.headers
            if role != "leading" and case.operation.path != "/status":
                assert OWN_NAME not in told

        ask()
