"""What the cluster tests conclude from the versions of a lock object."""

from __future__ import annotations

import json
import math
from typing import Any

from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION
from sidecar.registration import Registration, registration_key
from tests.cluster.terms import Version, gaps, instant, terms, version_of


def lock(holder: str, *, renewed: int = 0, claim: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a lock object."""
    record = json.dumps({"holderIdentity": holder, "renewTime": f"1970-01-01T00:00:{renewed:02}Z"})
    claimed = {CLAIM_ANNOTATION: json.dumps({**claim, "renewed": f"1970-01-01T00:00:{renewed:02}Z"})} if claim else {}
    return {"metadata": {"name": "store", "annotations": {RECORD_ANNOTATION: record, **claimed}}}


def claim(holder: str, uid: str, state: str = "leading") -> dict[str, Any]:
    """Return the claim of a pod on node n1."""
    return {"holder": holder, "pod_uid": uid, "node": "n1", "state": state}


def versions(*bodies: dict[str, Any]) -> list[Version]:
    """Return what was seen when these came, a second apart."""
    return [version_of(body, at=float(at)) for at, body in enumerate(bodies)]


def test_a_leader_that_releases_and_the_next_that_checks_first() -> None:
    """The gap lasts from the release to when the next one leads, which it does not yet while it checks."""
    first, second = terms(
        versions(
            lock("a", claim=claim("a", "1")),
            lock("a", renewed=1, claim=claim("a", "1")),
            lock(""),
            lock("b", claim=claim("b", "2", "checking")),
            lock("b", claim=claim("b", "2")),
        )
    )
    assert (first.holder, first.began, first.renewed, first.ended, first.released) == ("a", 0.0, 1.0, 2.0, True)
    assert (first.renew_time, second.renew_time) == (1.0, 0.0)
    assert (second.pod_uid, second.node, second.began, second.ended) == ("2", "n1", 4.0, None)
    assert gaps([first, second]) == [2.0]


def test_a_time_that_is_none_is_within_no_bound() -> None:
    """A record whose time cannot be read must not pass for an old one."""
    assert instant("2026-11-23T15:19:09Z") == 1795447149
    assert all(math.isnan(instant(given)) for given in (None, "", 0, "soon"))


def test_a_holder_that_checks_and_hands_over_has_no_term() -> None:
    """To hold the lock is not to lead."""
    found = terms(versions(lock("a", claim=claim("a", "1", "checking")), lock(""), lock("b", claim=claim("b", "2"))))
    assert [term.holder for term in found] == ["b"]


def test_a_take_over_is_no_release() -> None:
    """Who is replaced without having let go did not give its leadership up."""
    first, _ = terms(versions(lock("a", claim=claim("a", "1")), lock("b", claim=claim("b", "2"))))
    assert not first.released


def test_another_pod_of_the_same_name_is_another_leader() -> None:
    """Terms are told apart by the pod; a claim that is not the holder's, as beside a stock candidate, says no pod."""
    found = terms(versions(lock("a", claim=claim("a", "1")), lock("a", claim=claim("a", "2")), lock("a")))
    assert [term.pod_uid for term in found] == ["1", "2", ""]


def test_a_deleted_lock_is_held_by_nobody() -> None:
    """Its last version still says who held it."""
    body = lock("a", claim=claim("a", "1"))
    (term,) = terms([version_of(body, at=0.0), version_of(body, at=1.0, deleted=True)])
    assert term.ended == 1.0


def test_registrations() -> None:
    """Candidates are the pods whose registrations are on the lock; what is damaged is none."""
    registration = Registration(identity="a", node="n1", pod_uid="1")
    body = lock("a")
    body["metadata"]["annotations"] |= {
        registration_key("a"): registration.encode(),
        registration_key("b"): "damaged",
    }
    assert version_of(body, at=0.0).registered == {"1"}
