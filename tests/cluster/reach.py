"""How the tests reach the port of a pod from outside of the pods' network, also when its node is cut off."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from tests.cluster.streams import streaming
from tests.testbed.cluster import ClusterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.testbed.cluster import Cluster
    from tests.testbed.monitor import Streams

CONNECT_SECONDS = 2.0
"""Within which a pod has to accept a connection."""

PROXY_SECONDS = 10.0
"""Within which kubectl has to open its proxy."""

CLONE_NEWNET = 0x40000000


class Reach(Protocol):
    """A way to the pods of a cluster."""

    def question(self, namespace: str, pod: str, port: int) -> bytes:
        """Return the HTTP request for `/` on a port of a pod."""
        ...

    async def connect(self, node: str, address: str, port: int) -> Streams:
        """Open a connection that such requests may be sent over. Raises OSError."""
        ...


@asynccontextmanager
async def reaching(cluster: Cluster) -> AsyncIterator[Reach]:
    """Yield the best way to the pods of a cluster: from inside of their nodes, else through its API server."""
    if not cluster.given:
        yield _Inside(cluster)
        return
    async with proxied(cluster) as port:
        yield _ThroughAPIServer(port)


@asynccontextmanager
async def proxied(cluster: Cluster) -> AsyncIterator[int]:
    """Yield a port of this machine at which `kubectl proxy` passes requests on to the API server."""
    async with streaming(cluster, "proxy", "--port=0") as proxy:
        told = await asyncio.wait_for(proxy.readline(), PROXY_SECONDS)
        yield int(told.rpartition(b":")[2])


class _Inside:
    """Through sockets made inside of the network of the pod's node, which a cut does not touch."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def question(self, namespace: str, pod: str, port: int) -> bytes:  # noqa: ARG002 - the connection says it
        return b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def connect(self, node: str, address: str, port: int) -> Streams:
        try:
            network = self._cluster.network(node)
        except ClusterError as error:
            raise ConnectionError(f"{node} is switched off") from error
        inside = _socket_in(network)
        try:
            inside.setblocking(False)  # noqa: FBT003 - a parameter without a name
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(inside, (address, port))
            return await asyncio.open_connection(sock=inside)
        except BaseException:
            inside.close()
            raise


def _socket_in(network: Path) -> socket.socket:
    """Make a socket in another network namespace. Raises OSError."""

    def make() -> socket.socket:
        with network.open() as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"{network}: {os.strerror(ctypes.get_errno())}")
        return socket.socket()

    libc = ctypes.CDLL(None, use_errno=True)
    # setns(2) moves one thread, and this one ends there.
    with ThreadPoolExecutor(max_workers=1) as visitor:
        return visitor.submit(make).result()


class _ThroughAPIServer:
    """Through `kubectl proxy` and the API server, whatever credentials kubectl has for it."""

    def __init__(self, port: int) -> None:
        self._port = port

    def question(self, namespace: str, pod: str, port: int) -> bytes:
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/"
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    async def connect(self, node: str, address: str, port: int) -> Streams:  # noqa: ARG002 - the question says it
        return await asyncio.open_connection("127.0.0.1", self._port)
