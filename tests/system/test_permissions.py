"""What a candidate does with the permissions that it has, and what it says of those that it lacks."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.testbed.apiserver import STOCK_RULES, LocalAPIServer, PolicyRule, RealAPIServer
from tests.testbed.embedded import EmbeddedForTests
from tests.testbed.sidecar import Sidecar, Sidecars, leader_of, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.testbed.embedded import APIServer


def endpoints(*verbs: str) -> tuple[PolicyRule, ...]:
    """Return the rules that allow this on Endpoints and nothing else."""
    return ({"apiGroups": [""], "resources": ["endpoints"], "verbs": list(verbs)},) if verbs else ()


def start(sidecars: Sidecars, server: APIServer, rules: Sequence[PolicyRule], *identities: str) -> list[Sidecar]:
    """Start candidates of one election, in a namespace of their own, who may do what the rules say."""
    namespace = server.namespace()
    kubeconfig = server.kubeconfig_for("candidate", rules, namespace=namespace)
    return [
        sidecars.start(
            election="example",
            identity=identity,
            namespace=namespace,
            ttl="1s",
            kubeconfig=kubeconfig,
            flags=["--log-level=debug"],
        )
        for identity in identities
    ]


def warnings(sidecar: Sidecar) -> list[str]:
    """Return what was logged as a warning or worse, context and all."""
    return [str(line) for line in sidecar.lines() if line["level"] not in ("debug", "info")]


async def test_the_stock_images_permissions_are_enough(sidecars: Sidecars, api_server: APIServer) -> None:
    """With get, create and update on endpoints and nothing else: an election, a hand-over on SIGTERM, a take-over.

    The log of each says once, in a line that names verb and resource, what is missing.
    """
    candidates = start(sidecars, api_server, STOCK_RULES, "a", "b", "c")
    leader = await leader_of(candidates)

    for end in (Sidecar.terminate, Sidecar.kill):
        await end(leader)
        candidates.remove(leader)
        leader = await leader_of(candidates)

    for sidecar in sidecars.started:
        (warning,) = warnings(sidecar)
        assert "watch" in warning
        assert "endpoints" in warning


async def test_where_it_may_watch_nobody_polls(sidecars: Sidecars, api_server: APIServer) -> None:
    """With watch allowed too, followers send nothing: while the leader renews, nobody reads, and nobody complains."""
    candidates = start(sidecars, api_server, endpoints("get", "create", "update", "watch"), "a", "b", "c")
    await leader_of(candidates)

    def counted() -> tuple[int, int]:
        if isinstance(api_server, EmbeddedForTests):
            requests = api_server.server.requests
            return requests["get", "endpoints"], requests["update", "endpoints"]
        assert isinstance(api_server, RealAPIServer)
        requests = api_server.metrics().requests
        return requests["GET", "endpoints"], requests["PUT", "endpoints"]

    # A watch replaces polling once it has shown something.
    _, writes = counted()
    await until(lambda: counted()[1] >= writes + 2, "every watch shows a renewal", every=0.1)

    reads, writes = counted()
    await until(lambda: counted()[1] >= writes + 6, "the leader renews six times", every=0.1)

    # A given cluster looks after Endpoints of its own, every ten seconds. Two polling followers would read as often
    # each as the leader writes.
    assert counted()[0] - reads <= (0 if isinstance(api_server, EmbeddedForTests | LocalAPIServer) else 2)
    assert [warnings(candidate) for candidate in candidates] == [[]] * 3


@pytest.mark.parametrize(("granted", "missing"), [((), "get"), (("get",), "create")], ids=["nothing", "get"])
async def test_a_permission_that_is_granted_later(
    sidecars: Sidecars, api_server: APIServer, granted: Sequence[str], missing: str
) -> None:
    """Without a permission on the lock object nobody leads; the log says once which; once it is granted, all is well.

    It is tried again at a bounded rate in between.
    """
    namespace = api_server.namespace()
    kubeconfig = api_server.kubeconfig_for("candidate", endpoints(*granted), namespace=namespace)
    sidecar = sidecars.start(
        election="example",
        identity="a",
        namespace=namespace,
        ttl="1s",
        kubeconfig=kubeconfig,
        flags=["--log-level=debug"],
    )
    await until(lambda: len(sidecar.logged("forbidden")) >= 4, "it is refused, and tries again")
    assert await sidecar.leader_name() == ""
    assert (await sidecar.ask("/healthz")).status == 200
    (warning,) = warnings(sidecar)
    assert re.search(rf"\b{missing}\b", warning)
    assert "endpoints" in warning
    assert namespace in (await sidecar.status())["last_error"]

    api_server.kubeconfig_for("candidate", endpoints("get", "create", "update", "watch"), namespace=namespace)

    await sidecar.leading()
    assert warnings(sidecar) == [warning]


async def test_a_leader_that_may_not_renew(sidecars: Sidecars, api_server: APIServer) -> None:
    """A leader whose permission to update is missing gives up in time, says once why, and leads once it is granted."""
    namespace = api_server.namespace()
    kubeconfig = api_server.kubeconfig_for("candidate", endpoints("get", "create", "watch"), namespace=namespace)
    sidecar = sidecars.start(election="example", identity="a", namespace=namespace, ttl="1s", kubeconfig=kubeconfig)
    await sidecar.logging("leading")

    await sidecar.naming("")
    await sidecar.logging("stopped leading")
    (refused,) = (line for line in sidecar.logged("forbidden") if line["level"] != "info")  # Events are optional
    assert re.search(r"\bupdate\b", str(refused))

    api_server.kubeconfig_for("candidate", endpoints("get", "create", "update", "watch"), namespace=namespace)
    await sidecar.leading()


async def test_a_permission_that_is_taken_away(sidecars: Sidecars, api_server: APIServer) -> None:
    """Candidates whose permissions all go give up in time, stay live, and elect again when they are back."""
    namespace = api_server.namespace()
    rules = endpoints("get", "create", "update", "watch")
    kubeconfig = api_server.kubeconfig_for("candidate", rules, namespace=namespace)
    begin = partial(sidecars.start, election="example", namespace=namespace, ttl="1s", kubeconfig=kubeconfig)
    candidates = [begin(identity="a"), begin(identity="b")]
    await leader_of(candidates)

    api_server.kubeconfig_for("candidate", (), namespace=namespace)

    for candidate in candidates:
        await candidate.naming("")
        await candidate.logging("forbidden")
        assert (await candidate.ask("/healthz")).status == 200
    api_server.kubeconfig_for("candidate", rules, namespace=namespace)
    await leader_of(candidates)
