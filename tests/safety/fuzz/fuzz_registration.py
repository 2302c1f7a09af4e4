"""Registrations: any annotations are read, one's own is found again, and keys are what Kubernetes takes for keys."""

from __future__ import annotations

import json
import re

from sidecar.registration import (
    REGISTRATION_LIMIT,
    REGISTRATION_PREFIX,
    Registration,
    registration_key,
    registrations,
)
from tests.safety.fuzz.choices import Choices

TOKENS = ("leader-elector/candidate.", "identity", "node", "pod_uid", "seen", "accepted", "18446744073709551615")

_KEY = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
"""Kubernetes, labels and annotations: syntax. The name has at most 63 characters."""

_LONGEST_GIVEN = 253
"""Characters of the names that a candidate can be given (settings.MAX_NAME)."""


def check(data: bytes) -> None:
    """Fail unless what is read stands under its own key, and what a candidate writes is read back."""
    choices = Choices(data)
    identity, node, uid = (_given(choices) for _ in range(3))
    key = registration_key(identity)
    assert _KEY.fullmatch(key)
    assert key.startswith(REGISTRATION_PREFIX)
    mine = Registration(identity=identity, node=node, pod_uid=uid, seen=choices.number(8), accepted=choices.number(8))
    annotations = _annotations(choices)
    found = registrations({**annotations, key: mine.encode()})
    assert len(found) <= REGISTRATION_LIMIT
    for name, registration in found.items():
        assert registration_key(registration.identity) == name
        assert registration.node
    if len(annotations) < REGISTRATION_LIMIT:
        assert found[key] == mine
        assert {name: found[name] for name in registrations(annotations) if name != key} == {
            name: registration for name, registration in found.items() if name != key
        }


def _given(choices: Choices) -> str:
    """Return a name as settings let it pass."""
    text = choices.text().encode("utf-8", "replace").decode()
    return "".join(filter(str.isprintable, text)).strip()[:_LONGEST_GIVEN] or "x"


def _annotations(choices: Choices) -> dict[str, str]:
    """Return annotations, some of which are registrations, some under the wrong key."""
    annotations = {}
    while choices.left:
        fields = choices.fields(TOKENS[1:6], 1)
        identity = fields.get("identity")
        key = registration_key(identity) if isinstance(identity, str) and choices.number() % 4 else choices.text()
        annotations[key] = json.dumps(fields) if choices.number() % 4 else choices.text()
    return annotations
