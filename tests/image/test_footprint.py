"""What a container occupies, and when it loads what it needs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.bench.figures import MIB, parse_smaps_rollup
from tests.bench.footprint_report import ANONYMOUS_LIMIT, RESIDENT_LIMIT
from tests.testbed.apiserver import ENVIRONMENT_KUBECONFIG
from tests.testbed.containers import HARDENED
from tests.testbed.monitored_election import ELECTION
from tests.testbed.sidecar import leader_of, until

if TYPE_CHECKING:
    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.containers import Containers, SidecarContainer
    from tests.testbed.credentials import Credentials


def start(containers: Containers, access: Credentials, *, in_pod: bool) -> list[SidecarContainer]:
    """Start three candidates on three nodes, which say of each module when it is loaded."""
    flags = [f"--election={ELECTION}", f"--election-namespace={access.namespace}", "--ttl=12s"]
    return [
        containers.start(
            [*flags, f"--id={identity}"],
            identity=identity,
            mounts=access.pod_mounts if in_pod else access.mounts,
            env={
                **(access.pod_env if in_pod else access.env),
                "NODE_NAME": f"node-of-{identity}",
                "PYTHONPROFILEIMPORTTIME": "1",
            },
            **HARDENED,
        )
        for identity in ("web-0", "web-1", "web-2")
    ]


def loaded_late(container: SidecarContainer) -> list[str]:
    """Return the modules that a container loaded after it had said that it takes part."""
    before, said, after = container.output().partition('"taking part"')
    assert said
    assert "import time:" in before
    return re.findall(r"^import time: .*\| +(\S+)$", after, re.MULTILINE)


@pytest.mark.parametrize("in_pod", [False, True])
async def test_nothing_is_loaded_once_it_takes_part(
    containers: Containers, access: Credentials, real_api_server: RealAPIServer, *, in_pod: bool
) -> None:
    """Not for an election, nor for questions, a server that is gone, a token that is refused, or the end.

    Whoever has to read files first may be too late for all of that.
    """
    candidates = start(containers, access, in_pod=in_pod)
    leader = await leader_of(candidates)
    for candidate in candidates:
        for path in ("/", "/status", "/leader", "/healthz", "/readyz", "/unknown"):
            await candidate.ask(path)
        await candidate.ask("/status", "POST", body=b"{}")

    await asyncio.to_thread(real_api_server.stop_apiserver)
    await until(lambda: all(" failed" in candidate.output() for candidate in candidates), "all notice", every=0.2)
    await asyncio.to_thread(real_api_server.start_apiserver)
    leader = await leader_of(candidates)
    await asyncio.to_thread(access.rotate)
    assert await leader.terminate() == 0
    await leader_of([candidate for candidate in candidates if candidate is not leader])
    for candidate in candidates:
        if candidate is not leader:
            assert await candidate.terminate() == 0

    assert {candidate.identity: loaded_late(candidate) for candidate in candidates} == {
        candidate.identity: [] for candidate in candidates
    }


async def test_memory(containers: Containers, access: Credentials) -> None:
    """A leader and its followers stay within the limits that the bench has."""
    candidates = start(containers, access, in_pod=True)
    await leader_of(candidates)

    for candidate in candidates:
        status, told = candidate.run("cat", "/proc/1/smaps_rollup")
        assert status == 0, told
        memory = parse_smaps_rollup(told)
        assert memory.resident <= RESIDENT_LIMIT * MIB
        assert memory.anonymous <= ANONYMOUS_LIMIT * MIB


def test_the_bench_measures_the_image(image_under_test: str) -> None:
    """A leader and a follower, each with its figures, beside the stock image's."""
    if os.environ.get(ENVIRONMENT_KUBECONFIG):
        pytest.skip(f"{ENVIRONMENT_KUBECONFIG} is set, and the bench needs a server of its own")
    options = ("--replicas=2", "--settle=1", "--window=2", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", f"--image={image_under_test}", *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    (follower,) = told["followers"]
    for one in (told["leader"], follower):
        assert 0 < one["anonymous"] < one["resident"]
        assert 0 < one["proportional"] <= one["resident"]
        assert one["cpu"] > 0 < one["first_answer"]
    assert told["stock"]["resident"] == 17.8
