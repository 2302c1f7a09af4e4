"""What a run of the tests finds on the cluster that an earlier one left there."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tests.cluster import manifests
from tests.cluster.opening import LABEL, REMAINS_SECONDS, remove_remains

if TYPE_CHECKING:
    from tests.cluster.opening import Ground


def test_what_killed_runs_left_behind_is_removed(ground: Ground) -> None:
    """A namespace that was made more than an hour ago is removed; one of a run that may still go on is not."""
    now = int(time.time())
    ages = {"old": REMAINS_SECONDS + 60, "recent": REMAINS_SECONDS - 600}
    names = {age: f"{ground.run}-{age}" for age in ages}
    made = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": names[age], "labels": {LABEL: f"{now - seconds}-test"}},
        }
        for age, seconds in ages.items()
    ]
    manifests.apply(ground.cluster, made)
    try:
        remove_remains(ground.cluster)
        listed = json.loads(ground.cluster.kubectl("get", "namespaces", "--output=json"))["items"]
    finally:
        ground.cluster.kubectl("delete", "namespace", *names.values(), "--wait=false", "--ignore-not-found")

    present = {each["metadata"]["name"] for each in listed if "deletionTimestamp" not in each["metadata"]}
    assert present.intersection(names.values()) == {names["recent"]}
