"""The API server over TLS, by a kubeconfig and as in a pod, and what becomes of a term when the token is rotated."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.testbed.certificate import Authority
from tests.testbed.connection import APIError, Connection
from tests.testbed.containers import HARDENED
from tests.testbed.monitored_election import ELECTION
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.containers import Containers, SidecarContainer
    from tests.testbed.credentials import Credentials
    from tests.testbed.monitored_election import LockObject

FORGOTTEN_SECONDS = 30
"""The API server remembers a token that it has seen for 10 s."""


def start(containers: Containers, access: Credentials, identity: str, *, in_pod: bool) -> SidecarContainer:
    """Start a container with a kubeconfig that names the files, or with what a pod has."""
    return containers.start(
        [f"--election={ELECTION}", f"--election-namespace={access.namespace}", f"--id={identity}", "--ttl=6s"],
        identity=identity,
        mounts=access.pod_mounts if in_pod else access.mounts,
        env=access.pod_env if in_pod else access.env,
        **HARDENED,
    )


@pytest.mark.parametrize("in_pod", [False, True])
async def test_a_rotated_token_costs_no_term(
    containers: Containers, access: Credentials, real_api_server: RealAPIServer, lock: LockObject, *, in_pod: bool
) -> None:
    """The old token is refused, another is in the file: leader and follower go on, and the follower leads after it."""
    leader = start(containers, access, "web-0", in_pod=in_pod)
    await leader.leading()
    follower = start(containers, access, "web-1", in_pod=in_pod)
    await follower.naming("web-0")
    term = (await leader.status())["fencing_token"]

    old = await asyncio.to_thread(access.rotate)
    refused = Connection.trusting(real_api_server.url, ca_file=real_api_server.ca_file, token=old)

    async def forgotten() -> bool:
        try:
            await asyncio.to_thread(refused.request, "GET", lock.path)
        except APIError as error:
            return error.code == 401
        return False

    await until(forgotten, "the old token is refused", seconds=FORGOTTEN_SECONDS)
    for _ in range(2):
        await lock.renewed()
    assert await leader.names_itself()
    assert (await leader.status())["fencing_token"] == term
    assert await leader.terminate() == 0
    await follower.leading()


async def test_a_server_that_is_not_trusted(
    containers: Containers, access: Credentials, tmp_path: Path, lock: LockObject
) -> None:
    """With another authority's certificate nobody elects: the log says that it is not trusted, and it goes on."""
    access.trust(Authority(tmp_path).certificate)
    container = start(containers, access, "web-0", in_pod=False)

    line = await container.logging("not trusted")
    assert urlsplit(access.url).hostname in line["error"]
    assert (await container.ask()).body == b'{"name":""}'
    with pytest.raises(APIError, match="404"):
        await lock.everything()
