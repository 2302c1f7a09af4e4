"""The store alone: merge patches, selectors, and a history from which every watch can be served."""

import copy
import functools
import itertools
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.lab.resources import ENDPOINTS, LEASES, NAMESPACES, PODS, Object
from sidecar.lab.selectors import FieldSelector, LabelSelector, parse_field_selector, parse_label_selector
from sidecar.lab.status import ApiError
from sidecar.lab.store import Store, Watch, merge_patch

START = datetime(2026, 1, 1, 12, 0, 0, 999_999, tzinfo=UTC)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        """Return the time."""
        return self.time


def _store(*, seed: int = 0, history: int = 1000, now: Callable[[], datetime] | None = None) -> Store:
    return Store(now=now or Clock(), random=Random(seed), history=history, namespaces=("default", "other"))  # noqa: S311 - repeatable, not secret


@pytest.fixture
def store() -> Store:
    """Return a store with the namespaces `default` and `other`."""
    return _store()


@contextmanager
def _done_or_refused(code: HTTPStatus) -> Iterator[None]:
    """Let pass what succeeds, and what is refused with this code; anything else fails the test."""
    try:
        yield
    except ApiError as error:
        if error.code != code:
            raise


def _create(store: Store, name: str, *, namespace: str = "default", **metadata: object) -> Object:
    return store.create(ENDPOINTS, namespace, {"metadata": {"name": name, **metadata}})


def _version(stored: Object) -> int:
    return int(stored["metadata"]["resourceVersion"])


def _labels(text: str) -> tuple[LabelSelector, FieldSelector]:
    return parse_label_selector(text), FieldSelector()


def _fields(text: str) -> tuple[LabelSelector, FieldSelector]:
    return LabelSelector(), parse_field_selector(text, ENDPOINTS)


def _seen(watch: Watch) -> list[tuple[str, str, int]]:
    return [(event.type, event.object["metadata"].get("name", ""), _version(event.object)) for event in watch.take()]


# -- merge patch ------------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
_WITHOUT_NULL = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_examples(target: object, patch: object, result: object) -> None:
    """Every example of RFC 7386, appendix A, comes out as there."""
    assert merge_patch(target, patch) == result


@given(target=_JSON, patch=_JSON)
def test_merge_patch_is_idempotent_and_changes_neither_argument(target: object, patch: object) -> None:
    """Applied twice a patch does what it does once, and what went in stays as it was."""
    kept_target, kept_patch = copy.deepcopy(target), copy.deepcopy(patch)
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert (target, patch) == (kept_target, kept_patch)


@given(before=_WITHOUT_NULL, after=_WITHOUT_NULL)
def test_merge_patch_of_a_difference_leads_from_one_to_the_other(before: object, after: object) -> None:
    """The patch that says how two documents differ turns the first into the second."""
    assert merge_patch(before, _difference(before, after)) == after


def _difference(before: object, after: object) -> object:
    if not isinstance(after, dict):
        return after
    had = before if isinstance(before, dict) else {}
    removed = {key: None for key in had if key not in after}
    return removed | {key: _difference(had.get(key), value) for key, value in after.items()}


# -- selectors --------------------------------------------------------------------------------------------------------

_WORD = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=3)
_LABEL_SETS = st.dictionaries(st.sampled_from(["a", "b", "x/c"]), st.sampled_from(["", "1", "2", "in"]), max_size=3)
_KEYS = st.sampled_from(["a", "b", "x/c", "in"])
_VALUES = st.lists(st.sampled_from(["1", "2", "in", "notin"]), min_size=1, max_size=3)
_SPACES = st.sampled_from(["", " ", "  "])


@st.composite
def _requirements(draw: st.DrawFn) -> tuple[str, Callable[[dict[str, str]], bool]]:
    """Draw one requirement: how it is written, and what it means."""
    key, values, space = draw(_KEYS), draw(_VALUES), draw(_SPACES)
    one = values[0]
    listed = f"{space},{space}".join(values)
    forms: list[tuple[str, Callable[[dict[str, str]], bool]]] = [
        (f"{key}{space}={space}{one}", lambda labels: labels.get(key) == one),
        (f"{key}{space}=={space}{one}", lambda labels: labels.get(key) == one),
        (f"{key}{space}!={space}{one}", lambda labels: labels.get(key) != one),
        (f"{key} in{space}({space}{listed}{space})", lambda labels: labels.get(key) in values),
        (f"{key} notin{space}({space}{listed}{space})", lambda labels: labels.get(key) not in values),
        (f"{space}{key}{space}", lambda labels: key in labels),
        (f"!{space}{key}", lambda labels: key not in labels),
    ]
    return draw(st.sampled_from(forms))


@given(requirements=st.lists(_requirements(), max_size=4), labels=_LABEL_SETS)
def test_label_selectors_mean_what_they_say(
    requirements: list[tuple[str, Callable[[dict[str, str]], bool]]], labels: dict[str, str]
) -> None:
    """However a selector is spaced, an object matches if and only if it satisfies each requirement."""
    selector = parse_label_selector(",".join(text for text, _ in requirements))
    assert selector.matches({"metadata": {"labels": labels}}) is all(meaning(labels) for _, meaning in requirements)


@given(text=st.text("ab1=!(), <>inot-", max_size=12))
def test_label_selectors_are_understood_or_refused(text: str) -> None:
    """Whatever is sent as a selector, the answer is a selector or a 400; nothing else escapes."""
    with _done_or_refused(HTTPStatus.BAD_REQUEST):
        parse_label_selector(text).matches({"metadata": {}})


@given(name=_WORD, other=_WORD)
def test_field_selectors_mean_what_they_say(name: str, other: str) -> None:
    """Equality and inequality of the name are each other's opposite."""
    stored = {"metadata": {"name": name, "namespace": "default"}}
    assert parse_field_selector(f"metadata.name={other}", ENDPOINTS).matches(stored) is (name == other)
    assert parse_field_selector(f"metadata.name!={other}", ENDPOINTS).matches(stored) is (name != other)


def test_field_selector_values_are_unescaped() -> None:
    """Backslashes protect commas, equal signs and themselves in a value."""
    selector = parse_field_selector(r"metadata.name=a\,b\=c\\d", ENDPOINTS)
    assert selector.required("metadata.name") == r"a,b=c\d"


# -- objects ----------------------------------------------------------------------------------------------------------


def test_what_goes_in_is_copied(store: Store) -> None:
    """A caller that goes on changing its own objects changes nothing in the store."""
    annotations = {"a": "1"}
    subsets: list[dict[str, Any]] = [{"addresses": [{"ip": "10.0.0.1"}]}]
    store.create(ENDPOINTS, "default", {"metadata": {"name": "x", "annotations": annotations}, "subsets": subsets})
    annotations["a"] = "2"
    subsets[0]["addresses"].clear()
    stored = store.get(ENDPOINTS, "default", "x")
    assert stored["metadata"]["annotations"] == {"a": "1"}
    assert stored["subsets"] == [{"addresses": [{"ip": "10.0.0.1"}]}]


def test_an_object_that_was_read_never_changes(store: Store) -> None:
    """Later writes make new objects; whoever read the old one keeps what it read."""
    first = _create(store, "x", annotations={"a": "1"})
    kept = copy.deepcopy(first)
    store.patch(ENDPOINTS, "default", "x", {"metadata": {"annotations": {"a": "2"}}})
    store.update(ENDPOINTS, "default", "x", {"metadata": {"name": "x", "annotations": {"a": "3"}}})
    store.delete(ENDPOINTS, "default", "x")
    assert first == kept


def test_times_come_from_the_clock_in_whole_seconds() -> None:
    """The store has no clock of its own: a creation time is the handed-in clock's, cut to seconds."""
    clock = Clock()
    store = _store(now=clock)
    assert _create(store, "x")["metadata"]["creationTimestamp"] == "2026-01-01T12:00:00Z"
    clock.time += timedelta(seconds=61)
    assert _create(store, "y")["metadata"]["creationTimestamp"] == "2026-01-01T12:01:01Z"


def test_a_seed_makes_a_run_repeatable() -> None:
    """Two stores with the same seed give the same uids and names; another seed gives others."""

    def made(seed: int) -> list[str]:
        store = _store(seed=seed)
        generated = store.create(ENDPOINTS, "default", {"metadata": {"generateName": "g-"}})
        return [generated["metadata"]["name"], generated["metadata"]["uid"], _create(store, "x")["metadata"]["uid"]]

    assert made(1) == made(1)
    assert not set(made(1)) & set(made(2))


def test_a_failed_write_leaves_no_trace(store: Store) -> None:
    """A refused write takes no version, stores nothing and tells nobody."""
    stored = _create(store, "x")
    watch = store.watch(ENDPOINTS, since=store.version)
    before = store.version
    attempts: list[Callable[[], object]] = [
        lambda: _create(store, "x"),
        lambda: _create(store, "Not Valid"),
        lambda: _create(store, "y", namespace="nowhere"),
        lambda: store.update(ENDPOINTS, "default", "x", {"metadata": {"name": "x", "resourceVersion": "1"}}),
        lambda: store.patch(ENDPOINTS, "default", "x", {"metadata": {"annotations": {"no key": "1"}}}),
        lambda: store.delete(ENDPOINTS, "default", "x", uid="other"),
    ]
    for attempt in attempts:
        with pytest.raises(ApiError):
            attempt()
    assert store.version == before
    assert store.get(ENDPOINTS, "default", "x") is stored
    assert watch.take() == []


def test_a_lease_patched_without_a_version_is_written(store: Store) -> None:
    """A patch is made of the current object, so it carries the current version unless it takes it away."""
    store.create(LEASES, "default", {"metadata": {"name": "x"}, "spec": {"holderIdentity": "a"}})
    patched = store.patch(LEASES, "default", "x", {"spec": {"holderIdentity": "b"}})
    assert patched["spec"] == {"holderIdentity": "b"}
    with pytest.raises(ApiError, match="must be specified for an update"):
        store.patch(LEASES, "default", "x", {"metadata": {"resourceVersion": None}, "spec": {"holderIdentity": "c"}})


def test_the_generation_counts_changes_of_the_spec(store: Store) -> None:
    """Where a resource has a generation, spec moves it and metadata does not."""
    store.create(PODS, "default", {"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}})
    labelled = store.patch(PODS, "default", "p", {"metadata": {"labels": {"a": "1"}}})
    assert labelled["metadata"]["generation"] == 1
    moved = store.patch(PODS, "default", "p", {"spec": {"nodeName": "n2"}})
    assert moved["metadata"]["generation"] == 2


def test_a_pod_is_marked_once(store: Store) -> None:
    """A second graceful deletion changes nothing; one without grace ends it."""
    store.create(PODS, "default", {"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}})
    marked = store.delete(PODS, "default", "p", grace_seconds=5)
    assert marked["metadata"]["deletionTimestamp"] == "2026-01-01T12:00:05Z"
    assert store.delete(PODS, "default", "p", grace_seconds=9) is marked
    store.delete(PODS, "default", "p", grace_seconds=0)
    with pytest.raises(ApiError, match='pods "p" not found'):
        store.get(PODS, "default", "p")


def test_a_deleted_namespace_takes_everything_with_it(store: Store) -> None:
    """What was in the namespace is deleted, each with its event; other namespaces keep theirs."""
    _create(store, "x", namespace="other")
    _create(store, "y")
    watch = store.watch(ENDPOINTS, since=store.version)
    store.delete(NAMESPACES, "", "other")
    assert [(kind, name) for kind, name, _ in _seen(watch)] == [("DELETED", "x")]
    assert [item["metadata"]["name"] for item in store.list_objects(ENDPOINTS).items] == ["y"]
    with pytest.raises(ApiError, match='namespaces "other" not found'):
        _create(store, "x", namespace="other")


def test_default_cannot_be_deleted(store: Store) -> None:
    """The namespace `default` stays, and so does what is in it."""
    _create(store, "x")
    with pytest.raises(ApiError, match="this namespace may not be deleted"):
        store.delete(NAMESPACES, "", "default")
    assert store.get(ENDPOINTS, "default", "x")


def test_lists_come_in_the_order_of_keys(store: Store) -> None:
    """Across namespaces the order is that of etcd's keys, where "-" stands before "/"."""
    store.create(NAMESPACES, "", {"metadata": {"name": "default-b"}})
    _create(store, "a", namespace="default")
    _create(store, "z", namespace="default-b")
    assert [item["metadata"]["name"] for item in store.list_objects(ENDPOINTS).items] == ["z", "a"]


def test_errors_are_status_objects(store: Store) -> None:
    """An error carries what goes over the wire: kind Status, code, reason, message, and what it is about."""
    with pytest.raises(ApiError) as raised:
        store.get(LEASES, "default", "x")
    assert raised.value.status() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'leases.coordination.k8s.io "x" not found',
        "reason": "NotFound",
        "details": {"name": "x", "group": "coordination.k8s.io", "kind": "leases"},
        "code": 404,
    }


# -- history ----------------------------------------------------------------------------------------------------------

_NAMES = ("a", "b", "c")
_OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "patch", "delete"]), st.sampled_from(_NAMES), st.sampled_from(["1", "2", None])),
    max_size=25,
)


def _apply(store: Store, operation: tuple[str, str, str | None]) -> None:
    what, name, group = operation
    with _done_or_refused(HTTPStatus.NOT_FOUND):
        if what == "delete":
            store.delete(ENDPOINTS, "default", name)
        elif what == "patch":
            store.patch(ENDPOINTS, "default", name, {"metadata": {"labels": {"g": group}}})
        else:
            labels = {"g": group} if group else {}
            store.update(ENDPOINTS, "default", name, {"metadata": {"name": name, "labels": labels}})


def _state(items: list[Object]) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in items}


def _replay(state: dict[str, Object], watch: Watch) -> Iterator[str]:
    for event in watch.take():
        name = event.object["metadata"]["name"]
        if event.type == "DELETED":
            assert name in state
            del state[name]
        else:
            assert (name in state) is (event.type == "MODIFIED")
            state[name] = event.object
        yield event.type


@settings(max_examples=60)
@given(operations=_OPERATIONS, selector=st.sampled_from(["", "g", "g=1", "!g", "g notin (1)"]))
def test_a_list_and_a_watch_from_its_version_lead_to_the_present(
    operations: list[tuple[str, str, str | None]], selector: str
) -> None:
    """From every version: the list as it was then, and the watch from there, give what a list gives now."""
    store = _store()
    selectors = _labels(selector)
    versions = [store.version]
    live = store.watch(ENDPOINTS, "default", selectors=selectors)
    state: dict[str, Object] = {}
    for operation in operations:
        _apply(store, operation)
        versions.append(store.version)
    present = _state(store.list_objects(ENDPOINTS, "default", selectors=selectors).items)
    list(_replay(state, live))
    assert state == present
    for version in versions:
        then = store.list_objects(ENDPOINTS, "default", selectors=selectors, at=version)
        assert then.version == version
        past = _state(then.items)
        list(_replay(past, store.watch(ENDPOINTS, "default", selectors=selectors, since=version)))
        assert past == present


@settings(max_examples=40)
@given(operations=_OPERATIONS, limit=st.integers(1, 4), meanwhile=_OPERATIONS)
def test_pages_make_up_the_list_of_their_version(
    operations: list[tuple[str, str, str | None]], limit: int, meanwhile: list[tuple[str, str, str | None]]
) -> None:
    """Pages of any size, with writes between them, are together the list as it was at the first."""
    store = _store()
    for operation in operations:
        _apply(store, operation)
    whole = store.list_objects(ENDPOINTS, "default").items
    page = store.list_objects(ENDPOINTS, "default", limit=limit)
    items, left = list(page.items), iter(meanwhile)
    while page.continue_token:
        assert page.remaining == len(whole) - len(items)
        for operation in itertools.islice(left, 3):
            _apply(store, operation)
        page = store.list_objects(ENDPOINTS, "default", limit=limit, continue_token=page.continue_token)
        items += page.items
    assert items == whole


def test_the_history_is_bounded() -> None:
    """Only so many changes are remembered; a watch from before them is expired, one from the edge is not."""
    store = _store(history=3)
    first = _version(_create(store, "x"))
    versions = []
    for n in range(4):
        patch = {"metadata": {"annotations": {"n": str(n)}}}
        versions.append(_version(store.patch(ENDPOINTS, "default", "x", patch)))
    with pytest.raises(ApiError) as raised:
        store.watch(ENDPOINTS, since=first)
    assert (raised.value.code, raised.value.reason) == (HTTPStatus.GONE, "Expired")
    assert raised.value.message == f"too old resource version: {first} ({versions[0]})"
    assert [version for _, _, version in _seen(store.watch(ENDPOINTS, since=versions[0]))] == versions[1:]


def test_the_history_of_a_busy_resource_does_not_expire_a_quiet_one() -> None:
    """Each resource has a history of its own."""
    store = _store(history=2)
    since = store.version
    store.create(LEASES, "default", {"metadata": {"name": "quiet"}})
    for name in _NAMES:
        _create(store, name)
    assert [name for _, name, _ in _seen(store.watch(LEASES, since=since))] == ["quiet"]


def test_compaction_expires_watches_lists_and_tokens(store: Store) -> None:
    """After a compaction the past is gone for those who ask for it; the present is not, nor are open watches."""
    for name in _NAMES:
        _create(store, name)
    old = store.version
    token = store.list_objects(ENDPOINTS, limit=1).continue_token
    open_watch = store.watch(ENDPOINTS, since=old)
    _create(store, "d")
    store.compact()
    with pytest.raises(ApiError, match="too old resource version"):
        store.watch(ENDPOINTS, since=old)
    with pytest.raises(ApiError, match="The resourceVersion for the provided list is too old"):
        store.list_objects(ENDPOINTS, at=old)
    with pytest.raises(ApiError, match="The provided continue parameter is too old") as raised:
        store.list_objects(ENDPOINTS, continue_token=token)
    rest = store.list_objects(ENDPOINTS, continue_token=raised.value.status()["metadata"]["continue"])
    assert [item["metadata"]["name"] for item in rest.items] == ["b", "c", "d"]
    assert [name for _, name, _ in _seen(open_watch)] == ["d"]
    assert _seen(store.watch(ENDPOINTS, since=store.version)) == []


def test_compaction_up_to_a_version_keeps_the_rest(store: Store) -> None:
    """What came after the version can still be watched."""
    middle = _version(_create(store, "a"))
    last = _version(_create(store, "b"))
    store.compact(middle)
    assert _seen(store.watch(ENDPOINTS, since=middle)) == [("ADDED", "b", last)]
    with pytest.raises(ApiError, match="too old"):
        store.watch(ENDPOINTS, since=middle - 1)


# -- watches ----------------------------------------------------------------------------------------------------------


def test_a_watch_of_one_name_is_woken_for_that_alone(store: Store) -> None:
    """Thousands of watches of single objects cost nothing when other objects change."""
    woken: list[str] = []
    for name in _NAMES:
        wake = functools.partial(woken.append, name)
        store.watch(ENDPOINTS, "default", selectors=_fields(f"metadata.name={name}"), wake=wake)
    _create(store, "b")
    _create(store, "b", namespace="other")
    assert woken == ["b"]


@pytest.mark.parametrize(
    ("namespace", "selector", "names"),
    [
        ("", "", ["default/x", "other/x", "default/y"]),
        ("default", "", ["default/x", "default/y"]),
        ("", "metadata.name=x", ["default/x", "other/x"]),
        ("", "metadata.namespace=other", ["other/x"]),
        ("other", "metadata.name=x", ["other/x"]),
        ("default", "metadata.namespace=other", []),
        ("", "metadata.name!=x", ["default/y"]),
    ],
)
def test_what_a_watch_covers(store: Store, namespace: str, selector: str, names: list[str]) -> None:
    """Live and replayed alike, a watch sees what its namespace and its field selector say."""
    start = store.version
    live = store.watch(ENDPOINTS, namespace, selectors=_fields(selector), since=start)
    _create(store, "x")
    _create(store, "x", namespace="other")
    _create(store, "y")
    replayed = store.watch(ENDPOINTS, namespace, selectors=_fields(selector), since=start)
    for watch in (live, replayed):
        found = [event.object["metadata"] for event in watch.take()]
        assert [f"{metadata['namespace']}/{metadata['name']}" for metadata in found] == names


def test_a_watch_that_falls_behind_is_ended(store: Store) -> None:
    """A watch keeps so many events and no more: then it ends, empty, and says so."""
    woken: list[int] = []
    watch = store.watch(ENDPOINTS, backlog=2, wake=lambda: woken.append(1))
    for name in ("a", "b"):
        _create(store, name)
    assert not watch.ended
    _create(store, "c")
    assert watch.ended
    assert len(woken) == 3
    assert watch.take() == []
    _create(store, "d")
    assert watch.take() == []


def test_the_beginning_of_a_watch_is_no_lag(store: Store) -> None:
    """However many objects there are at the start, the backlog counts only what comes after."""
    for n in range(10):
        _create(store, f"x{n}")
    watch = store.watch(ENDPOINTS, backlog=1)
    _create(store, "new")
    assert len(watch.take()) == 11
    assert not watch.ended


def test_a_stopped_watch_is_silent(store: Store) -> None:
    """Stopping ends a watch for good, pending events included; stopping twice is stopping once."""
    watch = store.watch(ENDPOINTS)
    _create(store, "a")
    watch.stop()
    watch.stop()
    _create(store, "b")
    assert watch.ended
    assert watch.take() == []


def test_initial_events_and_their_end(store: Store) -> None:
    """Present objects, then the bookmark that marks their end at the store's version, then what follows."""
    _create(store, "a")
    watch = store.watch(ENDPOINTS, initial=True, mark_initial_end=True)
    version = store.version
    added, mark = watch.take()
    assert (added.type, mark.type) == ("ADDED", "BOOKMARK")
    assert mark.object == {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": str(version), "annotations": {"k8s.io/initial-events-end": "true"}},
    }
    later = _version(_create(store, "b"))
    assert _seen(watch) == [("ADDED", "b", later)]


def test_a_bookmark_tells_the_version_of_the_store(store: Store) -> None:
    """A watch resumed from a bookmark misses nothing and repeats nothing."""
    _create(store, "a")
    mark = store.bookmark(LEASES)
    assert mark.object == {
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"resourceVersion": str(store.version)},
    }
    later = _version(_create(store, "b"))
    assert _seen(store.watch(ENDPOINTS, since=_version(mark.object))) == [("ADDED", "b", later)]


def test_a_version_of_the_future(store: Store) -> None:
    """A list of the future is a time-out with advice; a watch of the future waits until it has come."""
    with pytest.raises(ApiError) as raised:
        store.list_objects(ENDPOINTS, not_older_than=store.version + 1)
    assert (raised.value.code, raised.value.retry_after) == (HTTPStatus.GATEWAY_TIMEOUT, 1)
    watch = store.watch(ENDPOINTS, since=store.version + 1)
    _create(store, "a")
    later = _version(_create(store, "b"))
    assert _seen(watch) == [("ADDED", "b", later)]
