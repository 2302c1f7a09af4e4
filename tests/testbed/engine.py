"""A Docker Engine for the tests: the machine's own where one answers, else a private one that root may start.

`python -m tests.testbed.engine` keeps one up until Ctrl-C and prints how to reach it.

The private engine leaves the machine as it was. It runs in process and mount namespaces of its own, so that the kernel
ends it, and every container of it, with the process that started it, whatever happens to that. It writes no rules for
the firewall, but one where the machine's would come between its containers: published ports are served by its proxy, a
container reaches the machine at its network's gateway, and whoever builds an image gives the build the machine's
network. Its bridge is its own, so that it runs beside any other engine. What images and build steps it has stay in the
cache for the next time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.testbed import addresses, commands, golang, processes
from tests.testbed.cluster_site import CGROUPS
from tests.testbed.exclusive import try_lock

if TYPE_CHECKING:
    from types import FrameType
    from typing import Self, TextIO

ENVIRONMENT_HOST = "DOCKER_HOST"
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
COMMAND_SECONDS = 120.0
BUILD_SECONDS = 1800.0
SLOTS = 4
"""Private engines that may run on a machine at a time, each for one session of tests, with images of its own."""

LOCKS = Path("/run")
CONFIGURATION = Path("/etc/docker")
"""Where every dockerd keeps something, for all that it is told."""
NETWORK = "10.190.{slot}.0/24"
"""Of a private engine's bridge, beside the networks of the cluster."""

PROGRAMS = ("docker", "dockerd", "containerd", "runc", "unshare", "ip", "iptables")
"""What a private engine is run with."""

KEPT = "168h"
"""How long a private engine keeps images that have no name: the build steps of older trees."""

INSTALL = "start a Docker Engine, name one in DOCKER_HOST, or run this as root with Debian's docker.io installed"


class EngineError(Exception):
    """There is no engine, or a command failed; the message is one line that says why and what to do."""


class NoEngineError(EngineError):
    """None answers, nobody named one, and none can be started here."""


class Engine:
    """A Docker Engine on this machine. Made by `ensure`; `close` ends it if it is a private one."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.at_close = contextlib.ExitStack()
        """What was put there and has to be taken back."""

    @property
    def is_private(self) -> bool:
        """Tell whether it is a private one, whoever started it."""
        return self.host.startswith(f"unix://{_folder()}/")

    @property
    def environment(self) -> dict[str, str]:
        """The environment, with the variables that bring docker, docker-compose and testcontainers to this engine."""
        # The container that testcontainers would clean up with cannot be pulled everywhere.
        return {**os.environ, ENVIRONMENT_HOST: self.host, "TESTCONTAINERS_RYUK_DISABLED": "true"}

    def run(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run `docker` with these arguments and return its standard output. Raises EngineError."""
        return _docker(*arguments, host=self.host, seconds=seconds)

    def command(self, *command: str, seconds: float) -> str:
        """Run a program that uses this engine, and return its standard output. Raises EngineError."""
        return commands.run(*command, error=EngineError, seconds=seconds, env={ENVIRONMENT_HOST: self.host})

    def image_labels(self, name: str) -> dict[str, str] | None:
        """Return an image's labels, None when the engine does not have the image. Raises EngineError."""
        if not self.run("image", "ls", "--quiet", name):
            return None
        return json.loads(self.run("image", "inspect", "--format", "{{json .Config.Labels}}", name)) or {}

    def pull(self, name: str, *, seconds: float) -> bool:
        """Pull an image; tell whether it was there in time."""
        try:
            self.run("pull", "--quiet", name, seconds=seconds)
        except EngineError:
            return False
        return True

    def close(self) -> None:
        """End a private engine with everything in it but images; of another one, take back what was put there."""
        self.at_close.close()

    def __enter__(self) -> Self:
        """Return the engine itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self.close()


class PrivateEngine(Engine):
    """A dockerd of our own, whose images stay in a folder that nobody else uses meanwhile. Raises EngineError.

    It ends with the process that made this.
    """

    def __init__(self, slot: int, lock: TextIO) -> None:
        folder = _folder() / str(slot)
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(f"unix://{folder / 'docker.sock'}")
        self._lock = lock
        self._name = f"leader-elector-engine-{slot}"
        self._log = folder / "dockerd.log"
        self._bridge, self._network = f"le-engine{slot}", IPv4Network(NETWORK.format(slot=slot))
        self._process: subprocess.Popen[bytes] | None = None
        self._made = [] if CONFIGURATION.exists() else [CONFIGURATION]
        # Of one that was killed; they would keep this one from starting.
        self._remove_traces()
        for name in ("docker.sock", "pid", "dockerd.log"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "exec", ignore_errors=True)
        try:
            self._make_network()
            command = self._command(folder)
            self._process = processes.start(command, log=self._log, env={**os.environ, "PATH": commands.path()})
            self._await_ready(self._process)
            self._empty()
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """Remove its containers, networks and volumes, and end it."""
        super().close()
        with contextlib.suppress(EngineError):
            self._empty()
        self._end()

    def _command(self, folder: Path) -> list[str]:
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        # Out of sight of the machine's containerd, which dockerd would use, and whose containers would outlive it; and
        # of the machine's own engine's folder, where dockerd writes a key.
        hidden = ("/run/containerd", str(CONFIGURATION))
        alone = "".join(f"mkdir -p {one} && mount -t tmpfs tmpfs {one} && " for one in hidden) + 'exec dockerd "$@"'
        # The settings of the machine's own engine, which are not for this one.
        configuration = folder / "daemon.json"
        configuration.write_text("{}")
        return [
            *namespaces,
            "sh",
            "-c",
            alone,
            "dockerd",
            f"--config-file={configuration}",
            f"--host={self.host}",
            f"--data-root={folder / 'data'}",
            f"--exec-root={folder / 'exec'}",
            f"--pidfile={folder / 'pid'}",
            "--storage-driver=overlay2",
            # Not `none`, nor with address pools of its own: then dockerd removes docker0, another engine's.
            f"--bridge={self._bridge}",
            "--ip-forward=false",
            "--iptables=false",
            "--ip6tables=false",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{self._name}",
            "--shutdown-timeout=5",
        ]

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            if process.poll() is not None:
                raise EngineError(f"dockerd ended as it started: {_reason(self._log)}")
            with contextlib.suppress(EngineError):
                self.run("version", seconds=5)
                return
            if time.monotonic() > deadline:
                raise EngineError(f"dockerd was not ready after {READY_SECONDS:g} s: {_reason(self._log)}")
            time.sleep(0.05)

    def _empty(self) -> None:
        """Remove everything but images that somebody may want again."""
        containers = self.run("ps", "--all", "--quiet").split()
        if containers:
            self.run("rm", "--force", "--volumes", *containers)
        self.run("network", "prune", "--force")
        self.run("volume", "prune", "--force")
        self.run("image", "prune", "--force", f"--filter=until={KEPT}")

    def _end(self) -> None:
        if self._process is not None:
            # `unshare` leads the group and lets SIGTERM pass; dockerd is in it, and takes containerd with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
            self._process.kill()
            self._process.wait()
        self._remove_traces()
        self._lock.close()

    @property
    def _rule(self) -> tuple[str, ...]:
        """The firewall's rule for packets that stay on one bridge."""
        bridged = ("FORWARD", "--match", "physdev", "--physdev-is-bridged")
        return (*bridged, "--match", "comment", "--comment", self._name, "--jump", "ACCEPT")

    def _make_network(self) -> None:
        addresses.check([self._network], error=EngineError)
        _command("ip", "link", "add", self._bridge, "type", "bridge")
        _command("ip", "address", "add", f"{self._network[1]}/{self._network.prefixlen}", "dev", self._bridge)
        _command("ip", "link", "set", self._bridge, "up")
        # Where another Docker Engine is, or was, nothing is forwarded, and bridges ask the firewall.
        asks = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
        if asks.exists() and asks.read_text().strip() == "1" and "-P FORWARD DROP" in _command("iptables", "-S"):
            _command("iptables", "--wait", "--insert", *self._rule)

    def _remove_traces(self) -> None:
        """Remove what the kernel does not remove with the processes: the bridge, the rule and the cgroups."""
        for command in (["ip", "link", "delete", self._bridge], ["iptables", "--wait", "--delete", *self._rule]):
            with contextlib.suppress(EngineError):
                _command(*command)
        for pattern in (self._name, f"*/{self._name}"):
            for top in CGROUPS.glob(pattern):
                for group in sorted([top, *top.rglob("*/")], reverse=True):
                    with contextlib.suppress(OSError):
                        group.rmdir()
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def ensure() -> Engine:
    """Return the engine of `DOCKER_HOST`, else of docker's own configuration, else start a private one.

    A private one needs root, and takes seconds. Raises NoEngineError where it cannot be had, else EngineError.
    """
    given = os.environ.get(ENVIRONMENT_HOST)
    try:
        host = given or json.loads(_docker("context", "inspect", "--format", "{{json .Endpoints.docker.Host}}"))
        _docker("version", host=host, seconds=20)
    except EngineError as error:
        if given:
            raise EngineError(f"{ENVIRONMENT_HOST}={given}: {error}") from error
        return start_private(str(error))
    return Engine(host)


def start_private(reason: str) -> PrivateEngine:
    """Start a private engine, because no other can be used for this reason. Raises as `ensure`."""
    if os.geteuid() != 0:
        raise NoEngineError(f"no Docker Engine answers ({reason}), and only root may start one; {INSTALL}")
    missing = [name for name in PROGRAMS if shutil.which(name, path=commands.path()) is None]
    if missing:
        raise NoEngineError(f"no Docker Engine answers ({reason}), and not installed: {', '.join(missing)}; {INSTALL}")
    for slot in range(SLOTS):
        lock = try_lock(LOCKS / f"leader-elector-engine-{slot}.lock")
        if lock is not None:
            return PrivateEngine(slot, lock)
    raise EngineError(f"{SLOTS} private engines run already, of other sessions of tests; wait for one of them to end")


def _docker(*arguments: str, host: str | None = None, seconds: float = COMMAND_SECONDS) -> str:
    if shutil.which("docker", path=commands.path()) is None:
        raise EngineError("the docker command is not installed")
    env = {ENVIRONMENT_HOST: host} if host else {}
    return commands.run("docker", *arguments, error=EngineError, seconds=seconds, env=env)


def _command(*command: str) -> str:
    return commands.run(*command, error=EngineError)


def _folder() -> Path:
    return golang.cache() / "engine"


def _reason(log: Path) -> str:
    """Return the last line of dockerd's log that is an error, else the last."""
    lines = processes.tail(log, lines=50).splitlines() or ["it wrote nothing"]
    errors = [line for line in lines if "level=fatal" in line or "level=error" in line or "failed" in line]
    return f"{(errors or lines)[-1]} (log: {log})"


def main() -> int:
    """Keep an engine up until Ctrl-C or SIGTERM; status 1 and the reason on stderr when there is none to be had."""

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        with ensure() as engine:
            sys.stdout.write(f"export {ENVIRONMENT_HOST}={engine.host} TESTCONTAINERS_RYUK_DISABLED=true\n")
            sys.stdout.flush()
            sys.stderr.write(f"{engine.host} answers; Ctrl-C ends this\n")
            signal.pause()
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
