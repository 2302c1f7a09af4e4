"""The lock object: any body is a snapshot or an `ApiError`; a write sends back all that it did not mean to change."""

from __future__ import annotations

import json
from typing import Any

from sidecar.kube import ApiError
from sidecar.lab import virtualtime
from sidecar.locks import EndpointsLock
from sidecar.record import CLAIM_ANNOTATION, GROUP_LABEL, RECORD_ANNOTATION, Claim, Record, Snapshot, UnreadableRecord
from sidecar.registration import registrations
from tests.safety.fuzz.choices import Choices
from tests.safety.fuzz.fake_api import Answer, check_error, client

TOKENS = (
    '{"metadata":{"name":"e","resourceVersion":"7","annotations":{',
    "metadata",
    "annotations",
    "labels",
    "resourceVersion",
    RECORD_ANNOTATION,
    CLAIM_ANNOTATION,
    "leader-elector/candidate.a",
    "leader-elector/look",
    '{\\"holderIdentity\\":\\"a\\",\\"leaseDurationSeconds\\":10}',
    '{\\"holder\\":\\"a\\",\\"node\\":\\"n\\"}',
    "18446744073709551615",
)

_RECORD = Record(holder="me", lease_seconds=10, acquire_time="", renew_time="", transitions=1)
_CLAIM = Claim(holder="me", node="n", pod_uid="u")
_OTHERS = {"leader-elector/candidate.me": "{}", "leader-elector/candidate.gone": None}


def check(data: bytes) -> None:
    """Fail on any exception but `ApiError`, and where something in the object is lost or invented."""
    choices = Choices(data)
    match choices.number() % 3:
        case 0:
            content = choices.rest()
        case 1:
            content = _object(choices.text(), choices.rest())
        case _:
            metadata = {"resourceVersion": "7"} | choices.fields(TOKENS[1:11])
            content = json.dumps(choices.fields(TOKENS[1:11]) | {"metadata": metadata}).encode()
    virtualtime.run(_read_and_write(content))


def _object(record: str, rest: bytes) -> bytes:
    """Return a whole lock object with this record, so that not all depends on a fuzzer's luck with brackets."""
    claim = rest.decode("utf-8", "surrogateescape")
    annotations = {RECORD_ANNOTATION: record, CLAIM_ANNOTATION: claim, "leader-elector/candidate.a": claim}
    return json.dumps({"metadata": {"resourceVersion": "7", "annotations": annotations}}).encode()


async def _read_and_write(content: bytes) -> None:
    answer = Answer(200, {}, [content])
    async with client(answer) as (kube, api):
        lock = EndpointsLock(kube, namespace="n", election="e", group="g")
        try:
            snapshot = await lock.fetch()
        except ApiError as error:
            check_error(error)
            return
        assert snapshot is not None
        _check_snapshot(snapshot)
        before = json.dumps(snapshot.body)
        await lock.write(snapshot, _RECORD, _CLAIM, _OTHERS)
        assert json.dumps(snapshot.body) == before
        (sent,) = api.sent
        _check_sent(json.loads(before), json.loads(json.dumps(sent)))


def _check_snapshot(snapshot: Snapshot) -> None:
    assert 0 <= snapshot.version < 10**20
    assert (snapshot.record is None) == (snapshot.text is None)
    if isinstance(snapshot.record, UnreadableRecord):
        assert snapshot.holder == ""
        assert snapshot.valid_claim is None
    if (claim := snapshot.valid_claim) is not None:
        assert claim.holder == snapshot.holder
    for registration in registrations(snapshot.annotations).values():
        assert registration.identity


def _check_sent(before: dict[str, Any], sent: dict[str, Any]) -> None:
    """Tell the same thing as the write's contract: two annotations, the others that were named, and the label."""
    annotations = dict(before["metadata"].get("annotations") or {})
    annotations |= {RECORD_ANNOTATION: _RECORD.encode(), CLAIM_ANNOTATION: _CLAIM.encode()}
    annotations["leader-elector/candidate.me"] = "{}"
    annotations.pop("leader-elector/candidate.gone", None)
    labels = {**(before["metadata"].get("labels") or {}), GROUP_LABEL: "g"}
    # As text: NaN is like nothing, not even itself.
    metadata = before["metadata"] | {"annotations": annotations, "labels": labels}
    assert json.dumps(sent, sort_keys=True) == json.dumps(before | {"metadata": metadata}, sort_keys=True)
