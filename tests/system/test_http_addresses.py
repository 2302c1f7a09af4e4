"""Where a running program answers besides port 4040: probes and metrics on addresses of their own."""

from __future__ import annotations

import socket
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.testbed.connection import write_kubeconfig
from tests.testbed.ports import free_port
from tests.testbed.sidecar import Answer, Sidecar, Sidecars, exchange, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Start = Callable[..., Sidecar]

HERE, THERE = "127.0.0.1", "127.0.0.2"
"""Two addresses of one machine: an address like `localhost:4040` is not open at the second, as a pod's is not."""


@pytest.fixture
def start(sidecars: Sidecars, tmp_path: Path) -> Start:
    """Start a candidate whose API server refuses connections: everything here is answered without it."""
    kubeconfig = write_kubeconfig(tmp_path / "nowhere", url="http://127.0.0.1:1", ca_file=None, token="none")
    return partial(sidecars.start, election="example", identity="a", ttl="60s", kubeconfig=kubeconfig)


async def asked(host: str, port: int, path: str, method: str = "GET") -> Answer:
    """Ask at an address."""
    sent = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    return Answer.parse(await exchange(host, port, sent.encode()))


async def statuses(host: str, port: int) -> dict[str, int]:
    """Return the status with which each of these paths is answered there."""
    paths = ("/healthz", "/health", "/readyz", "/metrics", "/", "/status", "/events/x", "/openapi.json")
    return {path: (await asked(host, port, path)).status for path in paths}


NOTHING = dict.fromkeys(
    ("/healthz", "/health", "/readyz", "/metrics", "/", "/status", "/events/x", "/openapi.json"), 404
)
PROBES = {"/healthz": 200, "/health": 200, "/readyz": 503}
METRICS = {"/metrics": 200}
ALL = dict.fromkeys(NOTHING, 200) | {"/readyz": 503}


async def test_probes_from_outside_and_the_name_from_inside(start: Start) -> None:
    """The name on localhost alone, probes and metrics where the kubelet and Prometheus reach them."""
    probes, metrics = free_port(), free_port()
    sidecar = start(
        http="localhost:{port}",
        flags=[f"--probe-address={THERE}:{probes}"],
        env={"ELECTION_METRICS_ADDRESS": f":{metrics}"},
    )
    await sidecar.answering()

    assert await statuses(HERE, sidecar.port) == ALL
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await exchange(THERE, sidecar.port, b"GET / HTTP/1.1\r\n\r\n")
    assert await statuses(THERE, probes) == NOTHING | PROBES
    assert await statuses(THERE, metrics) == NOTHING | METRICS
    assert (await asked(THERE, metrics, "/metrics")).body.startswith(b"# HELP ")
    assert (await asked(THERE, probes, "/release", "POST")).status == 404
    told = await sidecar.logging("taking part")
    assert (told["ports"], told["probe_ports"], told["metrics_ports"]) == ([sidecar.port], [probes], [metrics])
    assert await sidecar.terminate() == 0


async def test_one_address_for_both(start: Start) -> None:
    """Probes and metrics at the same address are one server; without the first address there is nothing else."""
    port = free_port()
    address = f"{HERE}:{port}"
    sidecar = start(http="", flags=[f"--probe-address={address}", f"--metrics-address={address}"])
    await sidecar.logging("taking part")

    assert await statuses(HERE, port) == NOTHING | PROBES | METRICS
    assert await sidecar.terminate() == 0


async def test_the_same_address_as_the_name(start: Start) -> None:
    """Probes and metrics are answered at the first address anyway, so one that is the same changes nothing."""
    port = free_port()
    address = f"{HERE}:{port}"
    env = {"ELECTION_PROBE_ADDRESS": address, "ELECTION_METRICS_ADDRESS": address}
    sidecar = start(port=port, env=env)
    await sidecar.answering()

    assert await statuses(HERE, port) == ALL
    assert await sidecar.terminate() == 0


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("http", "--http, ELECTION_HTTP"),
        ("probe-address", "--probe-address, ELECTION_PROBE_ADDRESS"),
        ("metrics-address", "--metrics-address, ELECTION_METRICS_ADDRESS"),
    ],
)
async def test_an_address_that_is_taken(start: Start, option: str, names: str) -> None:
    """The program does not start without an address that it was told; one line says which flag or variable it was."""
    with closing(socket.create_server((HERE, 0))) as other:
        address = f"{HERE}:{other.getsockname()[1]}"
        sidecar = start(http=None if option == "http" else f"{HERE}:{{port}}", flags=[f"--{option}={address}"])
        assert await sidecar.ended() == 1

    lines = [line for line in sidecar.output().splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert lines[0].startswith(f"leader-elector: cannot listen on {address} ({names}): Address already in use")


async def test_probes_and_metrics_that_cannot_be_had(start: Start) -> None:
    """An address for both that is taken is both flags' matter; the same port in another form is taken by ourselves."""
    port = free_port()
    with closing(socket.create_server((HERE, 0))) as other:
        address = f"{HERE}:{other.getsockname()[1]}"
        sidecar = start(flags=[f"--probe-address={address}", f"--metrics-address={address}"])
        assert await sidecar.ended() == 1
    ours = start(http=f":{port}", port=port, flags=[f"--probe-address=0.0.0.0:{port}"])
    assert await ours.ended() == 1

    names = "--probe-address, ELECTION_PROBE_ADDRESS or --metrics-address, ELECTION_METRICS_ADDRESS"
    assert f"cannot listen on {address} ({names}): Address already in use" in sidecar.output()
    await until(lambda: f"cannot listen on 0.0.0.0:{port} (--probe-address" in ours.output(), "it says which")
