"""The census: whatever a list shows of a group, it is counted and planned, and a plan makes nothing worse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import structlog

from sidecar.balance import DELAY_CAP, Census, delay, plan, take_census
from sidecar.group import EndpointsGroup
from sidecar.kube import ApiError
from sidecar.lab import virtualtime
from sidecar.record import CLAIM_ANNOTATION, HEAVIEST, RECORD_ANNOTATION, Claim, Record
from sidecar.registration import REGISTRATION_PREFIX, Registration, registration_key
from tests.safety.fuzz.choices import Choices
from tests.safety.fuzz.fake_api import Answer, client

if TYPE_CHECKING:
    from sidecar.balance import LockSeen

TOKENS = (
    '{"metadata":{"namespace":"n","name":"e","resourceVersion":"7","annotations":{}}}',
    "metadata",
    "namespace",
    "annotations",
    RECORD_ANNOTATION,
    CLAIM_ANNOTATION,
    REGISTRATION_PREFIX,
    "weight",
    "1000",
)

_ELECTIONS = 64
_NODES = ("n0", "n1", "n2", "n3", "n4", "n5", "n6", "", "\u00fc", "N", "n0 ")
_WEIGHTS = (1, 1, 1, 1, 2, 3, 7, HEAVIEST)


def check(data: bytes) -> None:
    """Fail unless a census comes out, or an `ApiError`, and its plan is one that may be followed."""
    choices = Choices(data)
    elections = choices.number() % _ELECTIONS
    items = [_lock_object(number, choices) for number in range(elections)]
    foreign = choices.rest()
    listed = json.dumps({"metadata": {}, "items": items}).encode()
    if foreign:
        listed = listed[:-2] + (b", " if items else b"") + foreign + b"]}"
    virtualtime.run(_taken(listed))


def _lock_object(number: int, choices: Choices) -> dict[str, object]:
    """Return a lock object that is whole, and says anything."""
    form = choices.number()
    name = f"e{number % 50}"
    holder, node = choices.pick("abc"), choices.pick(_NODES)
    stamp = "2024-05-01T10:00:42Z"
    claim = Claim(
        holder="" if form & 1 else holder,
        node=node,
        pod_uid="u",
        weight=choices.pick(_WEIGHTS),
        state="checking" if form & 2 else "leading",
        successor="b" if form & 4 else "",
        term=choices.number(),
        moves=choices.number() % 6,
        renewed=stamp,
    )
    record = Record(
        holder="" if form & 8 else holder, lease_seconds=10, acquire_time="", renew_time=stamp, transitions=0
    )
    annotations = {
        registration_key(identity): Registration(identity=identity, node=choices.pick(_NODES), pod_uid="u").encode()
        for identity in "abcdef"[: form >> 5]
    }
    annotations[RECORD_ANNOTATION] = record.encode() if not form & 16 else choices.text()
    annotations[CLAIM_ANNOTATION] = claim.encode()
    version = str(choices.number(2))
    return {"metadata": {"namespace": "n", "name": name, "resourceVersion": version, "annotations": annotations}}


async def _taken(listed: bytes) -> None:
    async with client(Answer(200, {}, [listed])) as (kube, _):
        group = EndpointsGroup(kube, namespace="n", group="g", cluster=False, log=structlog.get_logger())
        try:
            locks = await group.locks(cached=True)
        except ApiError:
            return
    _check(locks)


def _check(locks: list[LockSeen]) -> None:
    census = take_census(locks, {lock.name: "n1" for lock in locks if lock.claim is None})
    assert len(census.elections) == len(locks)
    loads = census.loads()
    assert all(load >= 0 for load in loads.values())
    for node in ("n0", "elsewhere"):
        for rivals in (frozenset[str](), frozenset({"n1"})):
            assert 0 <= delay(census, election="n/e0", node=node, rivals=rivals, slot=0.5) <= 0.5 * DELAY_CAP
    moves = plan(census)
    assert moves == plan(Census(tuple(reversed(census.elections))))
    elections = {election.name: election for election in census.elections}
    for name, end in moves.items():
        election = elections[name]
        assert election.movable
        assert end in election.nodes
        # Each goes to a node that carries less, whatever becomes of the others.
        assert loads[end] + election.weight <= loads[election.node]
    # All of them together make nothing worse.
    after = dict(loads)
    for name, end in moves.items():
        after[elections[name].node] -= elections[name].weight
        after[end] += elections[name].weight
    assert sum(load**2 for load in after.values()) <= sum(load**2 for load in loads.values())
