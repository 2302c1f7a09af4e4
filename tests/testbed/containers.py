"""Containers under test: started so that all of them are removed, whatever becomes of the tests.

A private engine takes its containers with it. On an engine that goes on, each carries the label of the process that
made it, and whoever makes some there later removes those of a process that is gone. Of processes on another machine,
in another container or before the last start of the machine nobody here can tell: what they made is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testcontainers.core.container import DockerContainer

from tests.testbed.ports import free_port
from tests.testbed.sidecar import PATIENCE, Sidecar, until

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence

    from testcontainers.core.network import Network

    from tests.testbed.engine import Engine

LABEL = "leader-elector.test"
"""Says which process made a container or a network."""

PORT = 4040

HARDENED: Mapping[str, Any] = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
"""As a careful user starts it."""


def mark() -> dict[str, str]:
    """Return the label of what this process makes."""
    return {LABEL: _mark(os.getpid())}


def remove_remains(engine: Engine, *, mine: bool = False) -> None:
    """Remove containers, networks and volumes of tests whose process is gone, or only those of this process.

    Raises EngineError.
    """
    own, place = _mark(os.getpid()), f"{_place()}/"
    kinds = (
        (("ps", "--all"), "ID", ("rm", "--force", "--volumes")),
        (("network", "ls"), "ID", ("network", "rm")),
        (("volume", "ls"), "Name", ("volume", "rm")),
    )
    for listing, name, remove in kinds:
        told = engine.run(*listing, f"--filter=label={LABEL}", "--format", f'{{{{.{name}}}}} {{{{.Label "{LABEL}"}}}}')
        for line in told.splitlines():
            thing, maker = line.split()
            if maker == own if mine else maker.startswith(place) and maker != _mark(int(maker.split("/")[2])):
                engine.run(*remove, thing)


def _mark(pid: int) -> str:
    # A process id comes again, but not with the same start time (proc_pid_stat(5)).
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return f"{_place()}/{pid}/{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    return ""


def _place() -> str:
    """Return where this process's number means this process: which start of which machine, and which namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


class SidecarContainer(Sidecar):
    """A running container of the image. `Containers` starts it.

    `port` is where the machine reaches it, 0 where it has no network of its own; it changes with every start.
    """

    def __init__(self, container: DockerContainer, *, identity: str, port: int = 0) -> None:
        self._starting = container
        self._own_port = port
        self.identity = identity
        self.port = port
        self.start()

    @property
    def container(self) -> Any:  # noqa: ANN401 - docker-py has no types
        """The container as docker-py has it."""
        return self._starting.get_wrapped_container()

    @property
    def id(self) -> str:
        """The container's identifier."""
        return str(self.container.id)

    def start(self) -> None:
        """Start the container, the first time or after it ended; its log goes on."""
        if self._starting._container is None:
            self._starting.start()
        else:
            self.container.start()
        self.container.reload()
        self.identity = self.identity or self.container.attrs["Config"]["Hostname"]
        published = (self.container.attrs["NetworkSettings"]["Ports"] or {}).get(f"{PORT}/tcp")
        self.port = int(published[0]["HostPort"]) if published else self._own_port

    def state(self) -> dict[str, Any]:
        """Return `State` as `docker inspect` shows it."""
        self.container.reload()
        found: dict[str, Any] = self.container.attrs["State"]
        return found

    def is_running(self) -> bool:
        """Tell whether the container has not ended."""
        return self.state()["Status"] not in ("exited", "dead")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to process 1 of the container. Raises docker.errors.APIError when that has ended."""
        self.container.kill(number.name)

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Wait until the container has ended and return its status, 128 + N after signal N."""
        await until(lambda: not self.is_running(), f"{self.identity} ends", seconds=seconds, every=0.02)
        return int(self.state()["ExitCode"])

    def close(self) -> None:
        """Remove the container, whatever state it is in."""
        self._starting.stop()

    def output(self) -> str:
        """Return all that was written to standard output and standard error, of every start."""
        return str(self.container.logs().decode(errors="replace"))

    def processes(self) -> list[str]:
        """Return the command lines of the processes in the container, process 1 first."""
        told = self.container.top()
        return [str(process[told["Titles"].index("CMD")]) for process in told["Processes"]]

    def files_changed(self) -> list[str]:
        """Return the files and folders that the container changed in its own file system."""
        return [str(change["Path"]) for change in self.container.diff() or []]

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command in the container; return its status and what it wrote."""
        done = self.container.exec_run(list(command))
        return int(done.exit_code), done.output.decode(errors="replace")


class Containers:
    """Starts containers of one image and keeps them, so that all of them can be removed whatever happened."""

    def __init__(self, image: str, network: Network) -> None:
        self.image = image
        self.started: list[SidecarContainer] = []
        self._network = network

    def start(
        self,
        flags: Sequence[str] = (),
        *,
        identity: str = "",
        env: Mapping[str, str] | None = None,
        mounts: Mapping[Path | str, str] | None = None,
        tmpfs: Sequence[str] = (),
        **options: Any,  # noqa: ANN401 - whatever docker's API takes
    ) -> SidecarContainer:
        """Start a container with these flags, in the network of the tests and with 4040 published on a free port.

        `identity` is what the container will be known by; without one it is its host name. `mounts` go in read-only,
        by their path on the machine; `tmpfs` are empty folders. `options` are docker-py's: `entrypoint`, `user`,
        `read_only`. Where they say `network_mode`, the container gets that one: `host`, with a free port of the
        machine for `{port}` in the flags, or `container:ID`.
        """
        port = free_port() if options.get("network_mode") == "host" else 0
        container = DockerContainer(self.image).with_command([flag.replace("{port}", str(port)) for flag in flags])
        for name, value in (env or {}).items():
            container.with_env(name, value)
        for path, target in (mounts or {}).items():
            container.with_volume_mapping(str(path), target)
        for target in tmpfs:
            container.with_tmpfs_mount(target)
        if "network_mode" not in options:
            container.with_network(self._network)
            # On loopback, and any port.
            container.with_bind_ports(f"{PORT}/tcp", None)
        container.with_kwargs(labels=mark(), **options)
        try:
            started = SidecarContainer(container, identity=identity, port=port)
        except BaseException:
            # What was made and could not be started.
            container.stop()
            raise
        self.started.append(started)
        return started

    def close(self) -> None:
        """Remove all of them, and print the ends of their logs: pytest shows them with a test that failed."""
        for container in self.started:
            lines = "\n".join(container.output().splitlines()[-40:])
            sys.stdout.write(f"-- {container.identity} {json.dumps(container.state())}\n{lines}\n")
        for container in self.started:
            container.close()
