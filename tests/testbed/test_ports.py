"""What tests rely on in the ports that they are given."""

from __future__ import annotations

import pytest

from tests.testbed.ports import PORTS, free_port, free_ports


def test_every_port_is_given_out_once() -> None:
    """Ports of one call and of several are different ones, though nobody listens on them yet."""
    ports = [*free_ports(20), *free_ports(20), free_port()]

    assert len(set(ports)) == 41
    assert set(ports) <= set(PORTS)


@pytest.mark.parametrize("worker", [0, 1, 3])
def test_workers_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch, worker: int) -> None:
    """What one of several workers of pytest-xdist is given, none of the others can be given."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{worker}")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "4")

    assert {(port - PORTS.start) % 4 for port in free_ports(50)} == {worker}
