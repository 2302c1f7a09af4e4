"""What a container of the image occupies: one election of containers, the leader told from its followers."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.candidates import CandidateError
from tests.bench.container import CandidateContainer, added_mib
from tests.bench.figures import MIB
from tests.bench.footprint_report import Footprint, Occupied
from tests.bench.measure import LEADER_SECONDS, RULES, WATCHFUL_SECONDS
from tests.testbed.apiserver import LocalAPIServer
from tests.testbed.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.testbed.engine import Engine

ELECTION = "footprint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the containers have to do."""

    replicas: int
    ttl: str
    """As Go writes durations."""
    settle: float
    """Seconds from when all name a leader to the window."""
    window: float


def measure(engine: Engine, image: str, load: Load, *, folder: Path, progress: Callable[[str], None]) -> Footprint:
    """Measure containers of an image. Raises CandidateError, EngineError, and what `LocalAPIServer` raises."""
    progress("starting the API server")
    with LocalAPIServer(folder) as server, ExitStack() as stack:
        containers = _containers(engine, image, load, server, stack)
        answers = []
        for container in containers:
            progress(f"starting {container.identity}")
            answers.append(container.start())
        _await_leader(containers)
        _sleep(load.settle, containers, "settling", progress)

        leader = _await_leader(containers)
        used, began = [container.cpu_seconds() for container in containers], time.monotonic()
        _sleep(load.window, containers, "steady state", progress)
        elapsed = time.monotonic() - began
        cpu = [container.cpu_seconds() - before for container, before in zip(containers, used, strict=True)]
        memory = [container.memory() for container in containers]
        if _await_leader(containers) != leader:
            raise CandidateError("another container leads than at the beginning; measure again")

    occupied = {
        container.identity: Occupied(
            resident=one.resident / MIB,
            anonymous=one.anonymous / MIB,
            proportional=one.proportional / MIB,
            cpu=1000 * seconds / elapsed,
            first_answer=answer,
        )
        for container, one, seconds, answer in zip(containers, memory, cpu, answers, strict=True)
    }
    return Footprint(
        image=image,
        ttl=load.ttl,
        window=load.window,
        added=added_mib(engine, image),
        leader=occupied.pop(leader),
        followers=list(occupied.values()),
    )


def _containers(
    engine: Engine, image: str, load: Load, server: LocalAPIServer, stack: ExitStack
) -> list[CandidateContainer]:
    """Make the containers, each with a service account of its own, as pods on as many nodes."""
    namespace = server.namespace()
    authority, port = server.ca_file.read_bytes(), server.url.rpartition(":")[2]
    made = []
    for number, own_port in enumerate(free_ports(load.replicas)):
        identity = f"{ELECTION}-{number}"
        account = server.folder / identity
        account.mkdir(mode=0o755)
        server.kubeconfig_for(identity, RULES, namespace=namespace)
        (account / "ca.crt").write_bytes(authority)
        (account / "token").write_text(server.issue_token(identity, namespace=namespace))
        (account / "namespace").write_text(namespace)
        variables = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": port,
            "POD_NAME": identity,
            "POD_UID": str(uuid.uuid4()),
            "NODE_NAME": f"node-{number}",
        }
        flags = [f"--election={ELECTION}", f"--election-namespace={namespace}", f"--id={identity}"]
        container = CandidateContainer(
            engine,
            image,
            identity=identity,
            port=own_port,
            flags=[*flags, f"--ttl={load.ttl}", f"--http=localhost:{own_port}"],
            variables=variables,
            account=account,
        )
        stack.callback(container.remove)
        made.append(container)
    return made


def _await_leader(containers: Sequence[CandidateContainer]) -> str:
    """Wait until all name the same one of them, and return its name. Raises CandidateError."""
    deadline = time.monotonic() + LEADER_SECONDS
    while True:
        named = {container.identity: container.name() for container in containers}
        if len(set(named.values())) == 1 and (leader := next(iter(named.values()))) in named:
            return leader
        if time.monotonic() > deadline:
            raise CandidateError(f"no common leader within {LEADER_SECONDS:g} s: {named}")
        time.sleep(WATCHFUL_SECONDS / 10)


def _sleep(
    seconds: float, containers: Sequence[CandidateContainer], what: str, progress: Callable[[str], None]
) -> None:
    """Sleep, and see afterwards that nobody has ended. Raises CandidateError."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        progress(f"{what}: {left:.0f} s to go")
        time.sleep(min(left, WATCHFUL_SECONDS))
    for container in containers:
        container.check()
