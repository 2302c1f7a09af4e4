"""The kinds of faults that there are, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.safety.chaos import (
    lock_faults,
    machine_faults,
    network_faults,
    peer_faults,
    process_faults,
    server_faults,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.safety.chaos.faults import Fault
    from tests.safety.chaos.schedule import Kind

FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        process_faults.Killed,
        process_faults.Replaced,
        process_faults.Namesake,
        process_faults.Terminated,
        process_faults.Stopped,
        process_faults.Stuttering,
        network_faults.CutOff,
        network_faults.RequestsLost,
        network_faults.AnswersLost,
        network_faults.HalfOpen,
        network_faults.Refused,
        network_faults.Resets,
        network_faults.Latency,
        network_faults.LongLatency,
        network_faults.Flapping,
        server_faults.ServerKilled,
        server_faults.ServerPaused,
        server_faults.EtcdPaused,
        server_faults.EtcdKilled,
        server_faults.DiskFull,
        lock_faults.Edited,
        lock_faults.Garbage,
        lock_faults.Stripped,
        lock_faults.Deleted,
        lock_faults.Writers,
        machine_faults.Busy,
        peer_faults.Peer,
    )
}


def kinds(names: Iterable[str]) -> list[Kind]:
    """Return what a plan needs to know of these kinds, in an order that does not depend on theirs."""
    wanted = set(names)
    return [fault.kind() for name, fault in FAULTS.items() if name in wanted]
