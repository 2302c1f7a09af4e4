"""The cluster that the tests run on, with the images on its nodes; what the tests made there is removed at the end."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.manifests import Image
from tests.testbed import engine as engines
from tests.testbed import golang, image, standins, storeimage
from tests.testbed.cluster import ClusterError, given_kubeconfig, open_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.testbed.cluster import Cluster

ENVIRONMENT_POLICY = "LEADER_ELECTOR_TEST_PULL_POLICY"
ENVIRONMENT_CURL = "LEADER_ELECTOR_TEST_CURL_IMAGE"
LABEL = "leader-elector-test"
"""Marks what one run of the tests made. Its value begins with when that was, in seconds since 1970."""
REMAINS_SECONDS = 3600
"""What is older was left behind by a run that was killed: no test takes so long."""
REMOVED_SECONDS = 120
"""Within which all namespaces have to be gone: pods are told to end, and take no longer than their grace period."""


class OpeningError(Exception):
    """There is no cluster with the image to be had; the message is one line that says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A cluster whose nodes have what the tests run there, or can pull it."""

    cluster: Cluster
    image: Image
    store_image: str
    """The example store's, by the name that the nodes know it by."""
    run: str
    """Marks what this run of the tests makes: the value of `LABEL`."""


@contextmanager
def opened(*, cpus: float | None = None, volumes: int = 12) -> Iterator[Ground]:
    """Open the cluster for the block, and remove what was made there. Raises OpeningError, or ClusterError.

    One that is brought up for it has nodes with at most `cpus` of the processor and so many `volumes` each.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="leader-elector-images-") as folder:
            name, store_image, archives = _images(Path(folder))
            cluster = open_cluster(cpus=cpus, volumes=volumes, archives=archives)
    except (
        ClusterError,
        engines.EngineError,
        golang.BuildError,
        image.ImageError,
        standins.StandInError,
    ) as error:
        raise OpeningError(str(error)) from error
    policy = os.environ.get(ENVIRONMENT_POLICY, "IfNotPresent")
    curl = os.environ.get(ENVIRONMENT_CURL, standins.CURL)
    with cluster:
        remove_remains(cluster)
        run = f"{int(time.time())}-{secrets.token_hex(3)}"
        ground = Ground(
            cluster=cluster,
            image=Image(name=name, pull_policy=policy, curl=curl),
            store_image=store_image,
            run=run,
        )
        try:
            yield ground
        finally:
            if cluster.stays:
                chosen = ("delete", "namespace", f"--selector={LABEL}={ground.run}", f"--timeout={REMOVED_SECONDS}s")
                cluster.kubectl(*chosen, timeout=REMOVED_SECONDS + 10)


def remove_remains(cluster: Cluster) -> None:
    """Remove the namespaces that earlier runs left behind, without waiting for that. Raises ClusterError."""
    listed = json.loads(cluster.kubectl("get", "namespaces", f"--selector={LABEL}", "--output=json"))
    made = {each["metadata"]["name"]: each["metadata"]["labels"][LABEL].partition("-")[0] for each in listed["items"]}
    oldest = time.time() - REMAINS_SECONDS
    if remains := [name for name, at in made.items() if at.isdecimal() and int(at) < oldest]:
        cluster.kubectl("delete", "namespace", *remains, "--wait=false", "--ignore-not-found")


def _images(folder: Path) -> tuple[str, str, list[Path]]:
    """Return the names of the image under test and of the store's, and archives for nodes that cannot pull.

    There are none for a given cluster's.
    """
    if given_kubeconfig():
        variable = os.environ.get
        name = variable(image.ENVIRONMENT_IMAGE) or image.name()
        return name, variable(storeimage.ENVIRONMENT_IMAGE) or storeimage.name(), []
    with engines.ensure() as engine:
        name, store_image = image.ensure(engine), storeimage.ensure(engine)
        standins.ensure(engine, standins.CURL)
        archive = folder / "leader-elector-tests.tar"
        engine.run("save", f"--output={archive}", name, store_image, standins.CURL)
        return name, store_image, [archive]
