"""What the tests of containers and pods need of the machine, made ready before the time-out of the first one runs.

A layer that the machine cannot run at all is one thing, and can be left out. One that it could run, but for a build
that failed, is another: its tests fail.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.testbed import cluster, engine, golang, image, standins
from tests.testbed.cluster import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS = ("image", "cluster")
"""The folders under `tests` with those tests."""


class UnavailableError(Exception):
    """This machine cannot run the layer; the message is one line that says why and what to do."""


class ProvisionError(Exception):
    """What the layer needs could not be made; the message is one line that says why and what to do."""


def provide(layer: str, at_end: Callable[[Callable[[], None]], object]) -> None:
    """Make ready what the layer's tests share. What has to be closed when they are done is handed to `at_end`.

    That is an engine, which `DOCKER_HOST` names from now on, with the images in it, and a cluster's programs. Progress
    goes to stderr. Raises UnavailableError or ProvisionError.
    """
    if layer == "cluster" and cluster.given_kubeconfig():
        needed: tuple[str, ...] = ()
    else:
        if layer == "cluster" and (obstacle := cluster.obstacle()):
            raise UnavailableError(f"no cluster: {obstacle}")
        needed = (standins.CURL,) if layer == "cluster" else (standins.CURL, standins.ETCD, standins.APISERVER)
    try:
        if layer == "cluster":
            cluster.prepare()
        if needed:
            running = _engine(at_end)
            standins.ensure(running, *needed)
            image.ensure(running)
    except (ClusterError, engine.EngineError, golang.BuildError, image.ImageError, standins.StandInError) as error:
        raise ProvisionError(str(error)) from error


def _engine(at_end: Callable[[Callable[[], None]], object]) -> engine.Engine:
    try:
        running = engine.ensure()
    except engine.NoEngineError as error:
        raise UnavailableError(f"no Docker Engine: {error}") from error
    at_end(running.close)
    os.environ[engine.ENVIRONMENT_HOST] = running.host
    return running
