"""WATCH: start, resume, selectors, bookmarks, and what happens when the history is gone."""

import asyncio

import pytest

from tests.contract.client import METADATA, Api, Events, Json, endpoints, eventually
from tests.testbed.apiserver import RealAPIServer
from tests.testbed.embedded import EmbeddedForTests

INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}


def _seen(event: Json) -> tuple[str, str, int]:
    metadata = event["object"]["metadata"]
    return event["type"], metadata["name"], int(metadata["resourceVersion"])


async def _cached(api: Api) -> list[str]:
    return (await api.get(api.endpoints(), {"resourceVersion": "0"})).names


async def _set(api: Api, name: str, value: str) -> int:
    return (await api.put(api.endpoints(name), endpoints(name, annotations={"a": value}))).version


async def _next_change(events: Events) -> Json:
    """Return the next event that is no bookmark."""
    event = await events.next()
    while event["type"] == "BOOKMARK":
        event = await events.next()
    return event


async def test_a_watch_sees_every_change_after_its_version(api: Api) -> None:
    """From a list's version on: added, modified, deleted, in order, each with the version of the change."""
    await api.created("old")
    start = (await api.get(api.endpoints())).version
    query = {"fieldSelector": "metadata.name=x", "resourceVersion": str(start)}
    async with api.watch(api.endpoints(), query) as events:
        created = await api.created("x")
        await api.created("other")
        modified = await _set(api, "x", "1")
        await api.delete(api.endpoints("x"))
        again = await api.created("x")
        added = await events.next()
        assert added == {"type": "ADDED", "object": created}
        assert _seen(await events.next()) == ("MODIFIED", "x", modified)
        kind, name, version = _seen(await events.next())
        assert (kind, name) == ("DELETED", "x")
        assert modified < version < int(again["metadata"]["resourceVersion"])
        assert await events.next() == {"type": "ADDED", "object": again}


async def test_a_deletion_shows_the_last_state_at_a_new_version(api: Api) -> None:
    """The event of a deletion carries what the object was, with the version of the deletion."""
    created = await api.created("x", annotations={"a": "1"})
    version = created["metadata"]["resourceVersion"]
    async with api.watch(api.endpoints(), {"resourceVersion": version}) as events:
        await api.delete(api.endpoints("x"))
        event = await events.next()
    assert event["type"] == "DELETED"
    gone = event["object"]["metadata"]
    assert int(gone["resourceVersion"]) > int(version)
    assert {**gone, "resourceVersion": version} == created["metadata"]


async def test_an_update_of_nothing_is_no_event(api: Api) -> None:
    """What keeps the version is not told to anybody."""
    created = await api.created("x", annotations={"a": "0"})
    async with api.watch(api.endpoints(), {"resourceVersion": created["metadata"]["resourceVersion"]}) as events:
        await _set(api, "x", "0")
        changed = await _set(api, "x", "1")
        assert _seen(await events.next()) == ("MODIFIED", "x", changed)


async def test_a_watch_resumes_where_another_ended(api: Api) -> None:
    """Nothing between the version last seen and the new watch is lost."""
    start = int((await api.created("x"))["metadata"]["resourceVersion"])
    async with api.watch(api.endpoints(), {"resourceVersion": str(start)}) as events:
        first = await _set(api, "x", "1")
        assert _seen(await events.next()) == ("MODIFIED", "x", first)
    missed = [await _set(api, "x", "2"), await _set(api, "x", "3")]
    async with api.watch(api.endpoints(), {"resourceVersion": str(first)}) as events:
        assert [_seen(await events.next())[2] for _ in missed] == missed


@pytest.mark.parametrize("version", [{}, {"resourceVersion": "0"}])
async def test_a_watch_without_a_version_begins_with_what_is_there(api: Api, version: dict[str, str]) -> None:
    """Without a version, or from 0, present objects come first as ADDED; then the changes."""
    await api.created("b")
    await api.created("a")
    # A watch from 0 begins with the cache, which may still have to learn of the last write.
    await eventually(lambda: _cached(api), ["a", "b"])
    async with api.watch(api.endpoints(), version) as events:
        assert [_seen(await events.next())[:2] for _ in range(2)] == [("ADDED", "a"), ("ADDED", "b")]
        changed = await _set(api, "a", "1")
        assert _seen(await events.next()) == ("MODIFIED", "a", changed)


async def test_a_watch_from_a_version_of_the_future_waits(api: Api) -> None:
    """No error and no event: the version may still come."""
    await api.created("x")
    query = {"resourceVersion": "999999999", "timeoutSeconds": "1"}
    async with api.watch(api.endpoints(), query) as events:
        await _set(api, "x", "1")
        assert await events.rest() == []


async def test_label_selectors_turn_changes_into_additions_and_deletions(api: Api) -> None:
    """What begins to match is added, what ceases to match is deleted: with its old labels, at the new version."""
    created = await api.created("x", labels={"g": "in"})
    query = {"labelSelector": "g=in", "resourceVersion": created["metadata"]["resourceVersion"]}
    async with api.watch(api.endpoints(), query) as events:
        left = (await api.patch(api.endpoints("x"), {"metadata": {"labels": {"g": "out"}}})).version
        await api.patch(api.endpoints("x"), {"metadata": {"labels": {"n": "1"}}})
        entered = (await api.patch(api.endpoints("x"), {"metadata": {"labels": {"g": "in"}}})).version
        event = await events.next()
        assert _seen(event) == ("DELETED", "x", left)
        assert event["object"]["metadata"]["labels"] == {"g": "in"}
        assert _seen(await events.next()) == ("ADDED", "x", entered)


async def test_a_watch_over_all_namespaces(api: Api) -> None:
    """One watch can see the same name in every namespace."""
    other = api.server.namespace()
    query = {
        "labelSelector": f"group={api.namespace}",
        "resourceVersion": str((await api.get(api.endpoints())).version),
    }
    async with api.watch("/api/v1/endpoints", query) as events:
        labels = {"group": api.namespace}
        await api.created("x", labels=labels)
        await api.post(f"/api/v1/namespaces/{other}/endpoints", endpoints("x", labels=labels))
        seen = [(await events.next())["object"]["metadata"]["namespace"] for _ in range(2)]
    assert seen == [api.namespace, other]


async def test_a_watch_of_metadata_only(api: Api) -> None:
    """A watch shows metadata alone when asked to."""
    created = await api.created("x", annotations={"a": "1"})
    query = {"fieldSelector": "metadata.name=x"}
    async with api.watch(api.endpoints(), query, accept=METADATA) as events:
        event = await events.next()
    kind = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    assert event == {"type": "ADDED", "object": {**kind, "metadata": created["metadata"]}}


async def test_initial_events_end_with_a_bookmark(api: Api) -> None:
    """Present objects first, then the marked bookmark at a version from which one may resume, then changes."""
    last = [int((await api.created(name))["metadata"]["resourceVersion"]) for name in "ab"][1]
    async with api.watch(api.endpoints(), INITIAL) as events:
        assert [_seen(await events.next())[:2] for _ in range(2)] == [("ADDED", "a"), ("ADDED", "b")]
        end = await events.next()
        assert end["type"] == "BOOKMARK"
        assert (end["object"]["kind"], end["object"]["apiVersion"]) == ("Endpoints", "v1")
        metadata = end["object"]["metadata"]
        assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert set(metadata) == {"annotations", "resourceVersion"}
        assert int(metadata["resourceVersion"]) >= last
        changed = await _set(api, "a", "1")
        assert _seen(await _next_change(events)) == ("MODIFIED", "a", changed)


async def test_initial_events_of_nothing_are_a_bookmark(api: Api) -> None:
    """Where nothing matches, the bookmark alone tells that this is so."""
    version = (await api.created("x"))["metadata"]["resourceVersion"]
    query = {**INITIAL, "fieldSelector": "metadata.name=none", "resourceVersion": version}
    async with api.watch(api.endpoints(), query) as events:
        event = await events.next()
    assert event["type"] == "BOOKMARK"
    assert int(event["object"]["metadata"]["resourceVersion"]) >= int(version)


async def test_initial_events_can_be_declined(api: Api) -> None:
    """With sendInitialEvents=false and no version a watch begins with what comes next."""
    await api.created("x")
    query = {**INITIAL, "sendInitialEvents": "false"}
    async with api.watch(api.endpoints(), query) as events:
        changed = await _set(api, "x", "1")
        assert _seen(await _next_change(events)) == ("MODIFIED", "x", changed)


async def test_initial_events_of_the_future_are_an_error(api: Api) -> None:
    """A state at a version that was never reached cannot be sent: 504, told in the stream."""
    async with api.watch(api.endpoints(), {**INITIAL, "resourceVersion": "999999999"}) as events:
        event = await events.next()
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (504, "Timeout")
    assert event["object"]["message"].startswith("Timeout: Too large resource version: 999999999, current: ")


async def test_a_bookmark_comes_before_the_end(api: Api) -> None:
    """A watch with bookmarks gets one shortly before its time is over, with a version to resume from."""
    version = int((await api.created("x"))["metadata"]["resourceVersion"])
    query = {"resourceVersion": str(version), "allowWatchBookmarks": "true", "timeoutSeconds": "4"}
    async with api.watch(api.endpoints(), {**query, "fieldSelector": "metadata.name=x"}) as events:
        await api.created("other")
        seen = await events.rest()
    assert {event["type"] for event in seen} == {"BOOKMARK"}
    for event in seen:
        assert (event["object"]["kind"], event["object"]["apiVersion"]) == ("Endpoints", "v1")
        assert set(event["object"]["metadata"]) == {"resourceVersion"}
        assert int(event["object"]["metadata"]["resourceVersion"]) >= version


async def test_a_watch_ends_at_its_timeout(api: Api) -> None:
    """TimeoutSeconds ends a watch in good order, without an event."""
    async with api.watch(api.endpoints(), {"timeoutSeconds": "1"}) as events:
        assert await events.rest() == []


async def test_a_watch_from_forgotten_history_is_expired(api: Api) -> None:
    """A version that the server no longer remembers: an ERROR event with a 410, in a stream that starts with 200."""
    version = (await api.created("x"))["metadata"]["resourceVersion"]
    await _set(api, "x", "1")
    await _forget_history(api)
    async with api.watch(api.endpoints(), {"resourceVersion": version}) as events:
        (event,) = await events.rest()
    assert event["type"] == "ERROR"
    status = event["object"]
    assert (status["kind"], status["status"]) == ("Status", "Failure")
    assert (status["code"], status["reason"]) == (410, "Expired")
    assert status["message"].startswith(f"too old resource version: {version} (")
    # A fresh start is always possible.
    fresh = (await api.get(api.endpoints())).version
    async with api.watch(api.endpoints(), {"resourceVersion": str(fresh)}) as events:
        changed = await _set(api, "x", "2")
        assert _seen(await events.next()) == ("MODIFIED", "x", changed)


async def _forget_history(api: Api) -> None:
    """Make the server forget all changes so far, but not the objects."""
    server = api.server
    if isinstance(server, EmbeddedForTests):
        server.server.store.compact()
        return
    assert isinstance(server, RealAPIServer)
    # A server that starts remembers what is, not what was.
    try:
        server.stop_apiserver()
    finally:
        await asyncio.to_thread(server.start_apiserver)


@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        (
            {"resourceVersion": "abc"},
            (
                500,
                "",
                'resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid syntax',
            ),
        ),
        (
            {"labelSelector": "!!"},
            (400, "BadRequest", "unable to parse requirement: found '!', expected: identifier"),
        ),
        (
            {"sendInitialEvents": "true"},
            (
                422,
                "Invalid",
                (
                    'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
                ),
            ),
        ),
        (
            {"resourceVersionMatch": "NotOlderThan"},
            (
                422,
                "Invalid",
                (
                    'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
                ),
            ),
        ),
    ],
)
async def test_watch_options_that_are_wrong(api: Api, query: dict[str, str], refusal: tuple[int, str, str]) -> None:
    """A request that is wrong in itself is refused before the stream begins."""
    assert (await api.get(api.endpoints(), {"watch": "true", **query})).refusal() == refusal


@pytest.mark.parametrize("watch", ["1", "true", "", "yes"])
async def test_every_value_of_watch_but_false_is_a_watch(api: Api, watch: str) -> None:
    """The server takes anything but `false` and `0` for true."""
    created = await api.created("x")
    async with api.watch(api.endpoints(), {"watch": watch, "timeoutSeconds": "5"}) as events:
        assert await events.next() == {"type": "ADDED", "object": created}
    for no in ("0", "false"):
        assert (await api.get(api.endpoints(), {"watch": no})).body["kind"] == "EndpointsList"


async def test_many_watches_see_the_same(api: Api) -> None:
    """Every watcher of an object sees every change of it, in the same order."""
    start = (await api.created("x"))["metadata"]["resourceVersion"]
    query = {"fieldSelector": "metadata.name=x", "resourceVersion": start, "timeoutSeconds": "30"}
    opened = asyncio.Barrier(6)

    async def watched() -> list[int]:
        async with api.watch(api.endpoints(), query) as events:
            await opened.wait()
            return [_seen(await events.next())[2] for _ in range(5)]

    watchers = [asyncio.create_task(watched()) for _ in range(5)]
    await opened.wait()
    written = [await _set(api, "x", str(n)) for n in range(5)]
    assert await asyncio.gather(*watchers) == [written] * 5
