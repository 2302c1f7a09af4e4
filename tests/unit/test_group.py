"""The group on the wire: which lock objects are seen, what is made of others' garbage, and what a refusal costs."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest
import structlog
from kubernetes_asyncio.client import Configuration

from sidecar.balance import LockSeen
from sidecar.group import EndpointsGroup
from sidecar.kube import DENIAL_SECONDS, ApiError, ConflictError, ForbiddenError, KubeClient, NotFoundError
from sidecar.record import LOOK_ANNOTATION
from tests.unit.wire import Wire, answered, http, wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from structlog.testing import CapturingLogger

CLUSTER = "/api/v1/endpoints"
NAMESPACE = "/api/v1/namespaces/apps/endpoints"
PODS = "/api/v1/namespaces/apps/pods"
FORBIDDEN = answered({"message": "cannot"}, 403)


@pytest.fixture(autouse=True)
def no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust nobody by default: loading the machine's authorities takes longer than any of these tests."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")


@asynccontextmanager
async def group_on(
    *answers: bytes, cluster: bool = False, clock: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[tuple[EndpointsGroup, Wire, CapturingLogger]]:
    """Return a group, the server that gives it these answers, and what it logs."""
    logger = structlog.testing.CapturingLogger()
    log = structlog.wrap_logger(logger, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0))
    async with wire(*answers) as server:

        async def load() -> Configuration:
            configuration = Configuration()
            configuration.host = server.url
            return configuration

        kube = KubeClient(load, timeout=5, user_agent="t")
        try:
            yield (
                EndpointsGroup(kube, namespace="apps", group="g", cluster=cluster, log=log, clock=clock),
                server,
                logger,
            )
        finally:
            await kube.close()


def listing(*items: object) -> bytes:
    """Return the answer that is a list of these."""
    return answered({"metadata": {}, "items": items})


def item(**changes: object) -> dict[str, Any]:
    """Return one lock object in a list; `None` leaves a part of its metadata out."""
    metadata = {"name": "a", "namespace": "apps", "resourceVersion": "7", "annotations": {"k": "v"}, **changes}
    return {"metadata": {key: value for key, value in metadata.items() if value is not None}}


A = LockSeen(name="apps/a", version=7, annotations={"k": "v"})
"""What `item` is seen as."""


# -- The list ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cluster", "path"), [(False, NAMESPACE), (True, CLUSTER)])
@pytest.mark.parametrize(
    ("cached", "how"), [(True, ("resourceVersion", "0")), (False, ("limit", "500"))], ids=["cached", "consistent"]
)
async def test_locks_are_listed_by_label(path: str, how: tuple[str, str], *, cluster: bool, cached: bool) -> None:
    """One list by the group's label, of the namespace or the cluster, shows every lock by namespace and name."""
    items = [item(), item(name="b.c", namespace="other", resourceVersion=str(2**64 - 1), annotations=None)]
    async with group_on(listing(*items), cluster=cluster) as (group, server, _):
        locks = await group.locks(cached=cached)
    assert locks == [A, LockSeen(name="other/b.c", version=2**64 - 1, annotations={})]
    (asked,) = server.asked
    target, _, query = asked.target.partition("?")
    assert (asked.method, target) == ("GET", path)
    assert parse_qsl(query) == [("labelSelector", "leader-elector/group=g"), how]


@pytest.mark.parametrize(
    "garbage",
    [
        {},
        {"metadata": None},
        {"metadata": []},
        {"metadata": {}},
        item(name=None),
        item(name=7),
        item(name=""),
        item(name="../a"),
        item(name="A"),
        item(name="a\n"),
        item(name="a" * 254),
        item(namespace=None),
        item(namespace="a/b"),
        item(resourceVersion=None),
        item(resourceVersion=7),
        item(resourceVersion=""),
        item(resourceVersion="0"),
        item(resourceVersion="-1"),
        item(resourceVersion="\u0663"),
        item(resourceVersion="9" * 5000),
        item(annotations=["x"]),
        item(annotations="x"),
        item(annotations={"k": None}),
        item(annotations={"k": 7}),
        item(annotations={"k": {"deep": []}}),
    ],
    ids=lambda garbage: json.dumps(garbage)[:80],
)
async def test_what_is_no_lock_object_is_left_out(garbage: dict[str, Any]) -> None:
    """Others' objects are input: one that cannot be a lock object is not seen, and hides no other."""
    async with group_on(listing(garbage, item(), garbage)) as (group, _, _):
        assert await group.locks(cached=True) == [A]


async def test_what_is_listed_twice_counts_once() -> None:
    """Each lock object is seen once, as it was listed last: a plan could not tell two elections of one name apart."""
    items = [item(resourceVersion="5", annotations={"k": "old"}), item(name="b"), item()]
    async with group_on(listing(*items)) as (group, _, _):
        locks = await group.locks(cached=True)
    assert locks == [A, LockSeen(name="apps/b", version=7, annotations={"k": "v"})]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(FORBIDDEN, ForbiddenError), (answered({}, 500), ApiError), (answered({}), ApiError), (http(200, b"x"), ApiError)],
)
async def test_a_list_that_fails_is_an_error(answer: bytes, kind: type[ApiError]) -> None:
    """A census is whole or there is none: the caller is told why."""
    async with group_on(answer) as (group, server, logger):
        with pytest.raises(ApiError) as caught:
            await group.locks(cached=True)
    assert type(caught.value) is kind
    assert len(server.asked) == 1
    assert logger.calls == []


async def test_where_the_cluster_may_not_be_listed_the_namespace_is() -> None:
    """A 403 for the cluster is remembered for ten minutes, and said once."""
    now = 0.0
    async with group_on(FORBIDDEN, listing(item()), cluster=True, clock=lambda: now) as (group, server, logger):
        for now in (0.0, 1.0, DENIAL_SECONDS - 1):  # noqa: B007 - the clock reads it
            assert await group.locks(cached=True) == [A]
        assert [call.method_name for call in logger.calls] == ["warning"]
        assert "only those in the namespace" in logger.calls[0].kwargs["event"]
        now = DENIAL_SECONDS
        await group.locks(cached=True)
    paths = [asked.target.partition("?")[0] for asked in server.asked]
    assert paths == [CLUSTER, NAMESPACE, NAMESPACE, NAMESPACE, CLUSTER]


async def test_another_error_of_the_cluster_s_list_is_no_refusal() -> None:
    """Only a 403 makes the scope smaller: an API server that is down for a moment does not."""
    async with group_on(answered({}, 503), listing(), cluster=True) as (group, server, _):
        with pytest.raises(ApiError):
            await group.locks(cached=True)
        await group.locks(cached=True)
    assert [asked.target.partition("?")[0] for asked in server.asked] == [CLUSTER, CLUSTER]


# -- The nudge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "raised"),
    [("0", "1"), ("7", "8"), ("007", "8"), ("9" * 20, "1" + "0" * 20), ("9" * 21, "1"), ("", "1"),
     ("-5", "1"), ("1.5", "1"), ("\u0663", "1"), ("x" * 100_000, "1")],
)  # fmt: skip
async def test_nudge_raises_the_counter(counter: str, raised: str) -> None:
    """A nudge is one patch of one annotation, to the counter that was seen and one; garbage counts as 0."""
    async with group_on(answered(item())) as (group, server, _):
        await group.nudge("other/b.c", counter)
    (asked,) = server.asked
    assert (asked.method, asked.target) == ("PATCH", "/api/v1/namespaces/other/endpoints/b.c")
    assert json.loads(asked.body) == {"metadata": {"annotations": {LOOK_ANNOTATION: raised}}}


@pytest.mark.parametrize(("status", "kind"), [(403, ForbiddenError), (404, NotFoundError), (409, ConflictError)])
async def test_nudge_that_fails(status: int, kind: type[ApiError]) -> None:
    """The caller is told."""
    async with group_on(answered({}, status)) as (group, _, _):
        with pytest.raises(kind):
            await group.nudge(A.name, "")


# -- The node of a pod -------------------------------------------------------------------------------------------------


async def test_node_of_a_pod() -> None:
    """The node is the one that the pod is bound to."""
    async with group_on(answered({"spec": {"nodeName": "n1"}})) as (group, server, _):
        assert await group.node_of("apps", "web-0.x") == "n1"
    assert [(asked.method, asked.target) for asked in server.asked] == [("GET", f"{PODS}/web-0.x")]


@pytest.mark.parametrize(
    "body", [{}, {"spec": None}, {"spec": []}, {"spec": {}}, {"spec": {"nodeName": None}}, {"spec": {"nodeName": 7}}]
)
async def test_a_pod_without_a_node(body: dict[str, Any]) -> None:
    """A pod that is not bound yet, and what is no pod, has no node."""
    async with group_on(answered(body)) as (group, _, _):
        assert await group.node_of("apps", "web-0") == ""


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../secrets/x", "a/b", "a/../b", "a?x=y", "a#b", "a%2fb", "a b", "a\n", "A", "Köln", "\u0430", "-a",
     "a..b", "a" * 254, "\ud800", "a" * 1_000_000],
    ids=lambda name: repr(name[:20]),
)  # fmt: skip
async def test_what_is_no_name_is_never_asked_for(name: str) -> None:
    """A holder calls itself whatever it likes: what no object can be called has no node, and costs no request."""
    async with group_on(answered({"spec": {"nodeName": "n1"}})) as (group, server, _):
        assert await group.node_of("apps", name) == ""
        assert await group.node_of(name, "web-0") == ""
    assert server.asked == []


async def test_longest_name_is_asked_for() -> None:
    """253 characters are a name."""
    async with group_on(answered({"spec": {"nodeName": "n1"}})) as (group, _, _):
        assert await group.node_of("apps", "a" * 253) == "n1"


async def test_no_such_pod() -> None:
    """A holder that is no pod has no node; the next one is asked for."""
    async with group_on(answered({}, 404), answered({"spec": {"nodeName": "n1"}})) as (group, _, logger):
        assert await group.node_of("apps", "host") == ""
        assert await group.node_of("apps", "web-0") == "n1"
    assert logger.calls == []


async def test_where_pods_may_not_be_read_nobody_asks_again() -> None:
    """A 403 is remembered for ten minutes, and said once, however often it is met."""
    now = 0.0
    async with group_on(FORBIDDEN, clock=lambda: now) as (group, server, logger):
        for now in (0.0, 1.0, DENIAL_SECONDS - 1):  # noqa: B007 - the clock reads it
            assert await group.node_of("apps", "web-0") == ""
        assert len(server.asked) == 1
        assert [call.method_name for call in logger.calls] == ["info"]
        now = DENIAL_SECONDS
        assert await group.node_of("apps", "web-0") == ""
        assert len(logger.calls) == 1
    assert len(server.asked) == 2


async def test_what_is_allowed_again_is_said() -> None:
    """When the permission is given, a line says that it is over; no other answer says anything."""
    now = 0.0
    pod = answered({"spec": {"nodeName": "n1"}})
    answers = (FORBIDDEN, listing(), FORBIDDEN, listing(), pod, listing(), pod)
    async with group_on(*answers, cluster=True, clock=lambda: now) as (group, _, logger):
        for now in (0.0, DENIAL_SECONDS, 2 * DENIAL_SECONDS):  # noqa: B007 - the clock reads it
            await group.locks(cached=True)
            await group.node_of("apps", "web-0")
    told = [call.kwargs["event"] for call in logger.calls]
    assert [text for text in told if "again" in text] == [
        "the cluster's endpoints may be listed again",
        "pods may be read again",
    ]
    assert len(told) == 4


async def test_pod_that_cannot_be_read_now() -> None:
    """What fails for another reason is an error: it says nothing about the pod."""
    async with group_on(answered({}, 500)) as (group, _, _):
        with pytest.raises(ApiError):
            await group.node_of("apps", "web-0")
