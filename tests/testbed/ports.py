"""Ports on which nobody listens."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

PORTS = range(20000, 32000)
"""Below the range from which Linux takes the ports of outgoing connections: one stays free while its server is down."""

_given_out: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return so many ports that are free on every address, different ones at every call. Raises OSError."""
    ports: list[int] = []
    own = _share()
    for port in random.sample(own, len(own)):
        if len(ports) == count:
            break
        if port in _given_out:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            ports.append(port)
    if len(ports) < count:
        raise OSError(f"there are no {count} free ports between {own.start} and {own.stop}")
    _given_out.update(ports)
    return ports


def _share() -> range:
    # Workers of pytest-xdist know nothing of the ports that the others have given out and not yet bound.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return PORTS[int(worker) :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def free_port() -> int:
    """Return one port that is free on every address. Raises OSError."""
    return free_ports(1)[0]
