"""What a running program writes to the lock object, and what it leaves alone, on a real API server."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.testbed.monitored_election import ELECTION, LockObject
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.sidecar import Sidecar, Sidecars

RECORD = "control-plane.alpha.kubernetes.io/leader"
CLAIM = "leader-elector/claim"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"

PATIENT = "60s"
"""A ttl that no test could wait out: what happens all the same did not wait for it."""


def start(sidecars: Sidecars, lock: LockObject, identity: str, ttl: str = PATIENT, **env: str) -> Sidecar:
    """Start a candidate for the lock."""
    return sidecars.start(
        election=ELECTION,
        identity=identity,
        namespace=lock.namespace,
        ttl=ttl,
        kubeconfig=lock.server.admin_kubeconfig,
        env=env,
    )


@pytest.fixture
def lock(real_api_server: RealAPIServer) -> LockObject:
    """A lock object that is not there yet."""
    return LockObject(real_api_server, real_api_server.namespace())


def written(text: str, *, holder: str, lease: int, transitions: int) -> tuple[str, str]:
    """Return the times in a record, having seen that it is as client-go writes it, to the byte."""
    form = (
        rf'\{{"holderIdentity":"{re.escape(holder)}","leaseDurationSeconds":{lease},'
        rf'"acquireTime":"({TIME})","renewTime":"({TIME})","leaderTransitions":{transitions}\}}'
    )
    found = re.fullmatch(form, text)
    assert found, text
    return found[1], found[2]


def held(holder: str, *, lease: int, transitions: int = 0, renewed: str = "2026-01-01T00:00:00Z") -> str:
    """Return the record of somebody, renewed by a clock that nobody should look at."""
    return json.dumps(
        {
            "holderIdentity": holder,
            "leaseDurationSeconds": lease,
            "acquireTime": "2026-01-01T00:00:00Z",
            "renewTime": renewed,
            "leaderTransitions": transitions,
        },
        separators=(",", ":"),
    )


# -- The record --------------------------------------------------------------------------------------------------------


async def test_the_lease_is_the_ttl_in_whole_seconds(sidecars: Sidecars, real_api_server: RealAPIServer) -> None:
    """Every form of a Go duration goes over the wire as whole seconds, rounded up; the default is 10."""
    leases = {"": 10, "10s": 10, "1m30s": 90, "1500ms": 2, "2.000000001s": 3, "24h": 86400}
    locks = {ttl: LockObject(real_api_server, real_api_server.namespace()) for ttl in leases}
    for sidecar in [start(sidecars, lock, "web-0", ttl) for ttl, lock in locks.items()]:
        await sidecar.leading()

    for ttl, lease in leases.items():
        written(await locks[ttl].text(), holder="web-0", lease=lease, transitions=0)


async def test_the_record_through_a_whole_life(sidecars: Sidecars, lock: LockObject) -> None:
    """Acquired, renewed, released, taken over: each record is client-go's to the byte, with the claim beside it."""
    first = start(sidecars, lock, "web-0", "2s", POD_UID="uid-0", NODE_NAME="node-0")
    await first.leading()
    times = [written(await lock.text(), holder="web-0", lease=2, transitions=0)]
    claim = json.loads((await lock.everything())["metadata"]["annotations"][CLAIM])
    assert int(claim.pop("term")) > 0
    assert claim.pop("renewed") == (await lock.record())["renewTime"]
    assert claim == {
        "holder": "web-0",
        "node": "node-0",
        "pod_uid": "uid-0",
        "weight": 1,
        "state": "leading",
        "successor": "",
        "moves": 0,
    }

    for _ in range(3):
        await lock.renewed()
        times.append(written(await lock.text(), holder="web-0", lease=2, transitions=0))
    assert len({acquired for acquired, _ in times}) == 1
    assert [renewed for _, renewed in times] == sorted({renewed for _, renewed in times})

    assert await first.terminate() == 0
    written(await lock.text(), holder="", lease=1, transitions=0)
    assert set((await lock.everything())["metadata"]["annotations"]) == {RECORD}

    second = start(sidecars, lock, 'web "1" <&>', "2s")
    await second.leading()
    written(await lock.text(), holder=r"web \"1\" \u003c\u0026\u003e", lease=2, transitions=1)
    assert json.loads((await lock.everything())["metadata"]["annotations"][CLAIM])["holder"] == 'web "1" <&>'


async def test_the_number_of_transitions_goes_on(sidecars: Sidecars, lock: LockObject) -> None:
    """Whoever takes over counts on from the record that it found, whoever wrote that."""
    await lock.create({RECORD: held("", lease=1, transitions=41)})
    sidecar = start(sidecars, lock, "web-0")
    await sidecar.leading()

    assert (await lock.record())["leaderTransitions"] == 42
    assert (await sidecar.status())["transitions"] == 42


# -- The object --------------------------------------------------------------------------------------------------------


async def test_the_endpoints_of_a_service_keep_everything(sidecars: Sidecars, lock: LockObject) -> None:
    """A lock object that is a Service's Endpoints keeps subsets, labels and annotations through a leader's life.

    The Service has no selector, so nobody but the candidates writes to its Endpoints.
    """
    port = {"name": "http", "port": 80, "protocol": "TCP"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "example"}, "spec": {"ports": [port]}}
    lock.server.request("POST", f"/api/v1/namespaces/{lock.namespace}/services", service)
    subsets = [
        {
            "addresses": [{"ip": "192.0.2.1", "hostname": "web-0", "targetRef": {"kind": "Pod", "name": "web-0"}}],
            "notReadyAddresses": [{"ip": "192.0.2.2", "nodeName": "node-2"}],
            "ports": [{**port, "appProtocol": "kubernetes.io/h2c"}],
        }
    ]
    others = {"example.com/owner": "team <a> & b", "endpoints.kubernetes.io/last-change-trigger-time": "never"}
    made = await lock.create(others, labels={"app": "example", "service.kubernetes.io/headless": ""}, subsets=subsets)

    async def kept() -> Any:  # noqa: ANN401 - JSON
        found = await lock.everything()
        metadata = found.pop("metadata")
        metadata["annotations"] = {
            name: value for name, value in metadata["annotations"].items() if name not in (RECORD, CLAIM)
        }
        for changing in ("resourceVersion", "managedFields"):
            metadata.pop(changing, None)
        return {**found, "metadata": metadata}

    before = await kept()
    assert before["subsets"] == made["subsets"]
    assert before["metadata"]["annotations"] == others

    sidecar = start(sidecars, lock, "web-0", "1s")
    await sidecar.leading()
    assert await kept() == before
    for _ in range(3):
        await lock.renewed()
        assert await kept() == before
    # Somebody else writes in between: what is sent back is the newest state, not the one that was acquired.
    await lock.merge({"labels": {"new": "label"}})
    before["metadata"]["labels"]["new"] = "label"
    await lock.renewed()
    assert await kept() == before
    assert await sidecar.terminate() == 0
    assert (await lock.record())["holderIdentity"] == ""
    assert await kept() == before


async def test_a_follower_never_writes(sidecars: Sidecars, lock: LockObject) -> None:
    """While somebody else holds the lock, fields that nobody knows stand as they were, and no version is added."""
    strange = json.loads(held("stranger", lease=3600)) | {"strategy": "OldestEmulationVersion", "more": {"a": [1]}}
    await lock.create({RECORD: json.dumps(strange), "example.com/other": "stays"}, labels={"app": "example"})
    follower = start(sidecars, lock, "web-0", "1s")
    await follower.naming("stranger")

    for transitions in range(1, 6):
        text = json.dumps(strange | {"leaderTransitions": transitions})
        last = await lock.annotate(text)
        await until(partial(_has_seen, follower, transitions), "the follower sees the renewal")

    assert (await lock.everything())["metadata"]["resourceVersion"] == last["metadata"]["resourceVersion"]
    assert await follower.terminate() == 0
    assert await lock.everything() == last


async def _has_seen(follower: Sidecar, transitions: int) -> bool:
    return bool((await follower.status())["transitions"] == transitions)


async def test_an_object_without_a_record_is_vacant(sidecars: Sidecars, lock: LockObject) -> None:
    """A lock object that is there, and that nobody ever held, is taken at once."""
    await lock.create({"example.com/other": "stays"})
    sidecar = start(sidecars, lock, "web-0")

    await sidecar.leading()

    written(await lock.text(), holder="web-0", lease=60, transitions=1)  # as client-go counts it
    assert (await lock.everything())["metadata"]["annotations"]["example.com/other"] == "stays"


async def test_an_unreadable_record_is_waited_out(sidecars: Sidecars, real_api_server: RealAPIServer) -> None:
    """A record that cannot be read is reported once, counts as held for one lease from then, and is taken over."""
    texts = [
        "",
        "damaged",
        "[]",
        '{"holderIdentity":42}',
        '{"holderIdentity":"stranger"}',
        '{"holderIdentity":"stranger","leaseDurationSeconds":"10"}',
        '{"holderIdentity":"stranger","leaseDurationSeconds":2147483647}',
    ]
    locks = [LockObject(real_api_server, real_api_server.namespace()) for _ in texts]
    for lock, text in zip(locks, texts, strict=True):
        await lock.create({RECORD: text})
    candidates = [start(sidecars, lock, "web-0", "3s") for lock in locks]

    for candidate in candidates:
        await candidate.leading()

    for candidate, lock in zip(candidates, locks, strict=True):
        (reported,) = candidate.logged("the record cannot be read")
        (leading,) = candidate.logged("leading")
        assert reported["level"] == "warning"
        assert datetime.fromisoformat(leading["time"]) - datetime.fromisoformat(reported["time"]) > timedelta(
            seconds=2.9
        )
        written(await lock.text(), holder="web-0", lease=3, transitions=1)


async def test_a_dead_holder_is_waited_out_on_our_own_clock(sidecars: Sidecars, lock: LockObject) -> None:
    """A record whose times are long past is held all the same, for its own lease from when it was first seen."""
    await lock.create({RECORD: held("stranger", lease=2, transitions=7)})
    started = time.monotonic()
    sidecar = start(sidecars, lock, "web-0")
    await sidecar.naming("stranger")

    await sidecar.leading()

    assert time.monotonic() - started >= 2
    assert (await lock.record())["leaderTransitions"] == 8
