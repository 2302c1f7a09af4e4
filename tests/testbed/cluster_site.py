"""What a cluster leaves on this machine, and how all of it goes away again, whatever became of who made it.

A machine has at most one such cluster. One file in `/run` names it; who holds the lock on that file brings it up, uses
it, or takes it down. Its processes are found by their cgroup, never by their name, and its network lives in a network
namespace that one of them holds. A process of its own, the *guard*, waits for the same lock: when it gets it because
the maker ended before everything was in order, it takes the cluster down.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed import commands
from tests.testbed.processes import TETHER, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RECORD = Path("/run/leader-elector-cluster.json")
HIERARCHIES = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
REGISTRY = "pids"
"""The hierarchy in which each part of the cluster has a cgroup of its own, by which its processes are found."""
CGROUPS = Path("/sys/fs/cgroup")
SYSCTLS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
"""What a kubelet sets for the whole machine."""
MOUNTS = {
    "containerd": "/var/lib/containerd",
    "kubelet": "/var/lib/kubelet",
    "cni": "/var/lib/cni",
    "pods": "/var/log/pods",
    "containers": "/var/log/containers",
}
"""What a node keeps when it is switched off, and where it is mounted there: folders that must exist on the machine."""
PATH = commands.path()
"""Where programs are looked for."""
LOCK_SECONDS = 15.0
"""How long to wait for another process that may be taking its cluster down."""
END_SECONDS = 60.0
"""Within which processes that are killed, and what they held, have to be gone, however busy the machine is."""
ROOT = Path(__file__).parents[2]

_outliving: list[subprocess.Popen[bytes]] = []
"""Parts of a cluster that stays up when this process ends."""


class ClusterError(Exception):
    """A cluster cannot be had, or does not do as it is told; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """A node's use of the processor since it was booted."""

    seconds: float
    periods: int
    """Of its limit, each 0.1 s, in which anything ran; 0 without a limit."""
    throttled: int
    """Of these, those in which it had to wait for the next."""


@dataclass(kw_only=True)
class Record:
    """What is known of the cluster to whoever finds the file."""

    folder: str
    """State, logs and kubeconfigs."""
    process: int
    """Who has the lock, or had it last."""
    command: str
    since: str
    standing: bool = False
    """It stays up when the process that made it ends."""
    nodes: int = 0
    node_cpus: float | None = None
    cgroups: dict[str, str] = field(default_factory=dict)
    """By hierarchy, the cgroup below which all of the cluster is."""
    sysctls: dict[str, str] = field(default_factory=dict)
    """As they were before."""
    made: list[str] = field(default_factory=list)
    """Folders for the nodes' mounts, made because the machine did not have them."""
    link: str = ""
    """The machine's end of the link to the nodes; the routes to them go with it."""


class Site:
    """The machine's place for a cluster. `take` makes one that this process has locked, `peek` one just to look at."""

    def __init__(self, path: Path, lock: int, record: Record) -> None:
        self.record = record
        self._path = path
        self._lock = lock
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def folder(self) -> Path:
        """State, logs and kubeconfigs of the cluster."""
        return Path(self.record.folder)

    @property
    def logs(self) -> Path:
        """The logs of the cluster's parts, `PART.log`."""
        return self.folder / "log"

    def save(self) -> None:
        """Write the record."""
        content = json.dumps(asdict(self.record), indent=1).encode() + b"\n"
        # In place, because the lock is on this file, and in one write, so that no half of it is ever seen.
        os.pwrite(self._lock, content.ljust(os.fstat(self._lock).st_size), 0)

    def prepare(self, *, link: str) -> None:
        """Note everything that is going to be there, and make what the parts need. The site must be clear."""
        record = self.record
        record.link = link
        own = own_cgroups()
        # Never one that exists: another container, with a /run of its own, may have a cluster below the same cgroup.
        name = f"{self._path.stem}-{secrets.token_hex(4)}"
        record.cgroups = {one: str(CGROUPS / one / own[one].lstrip("/") / name) for one in HIERARCHIES}
        record.sysctls = {one: Path("/proc/sys", one).read_text().strip() for one in SYSCTLS}
        folders = [folder for path in MOUNTS.values() for folder in (*reversed(Path(path).parents), Path(path))]
        record.made = [str(folder) for folder in dict.fromkeys(folders) if not folder.exists()]
        self.save()
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.logs, self.folder / "pki", self.folder / "images"):
            folder.mkdir(parents=True)
        for one in record.made:
            Path(one).mkdir()

    def guard(self) -> None:
        """Start the process that takes the cluster down when this one ends in any other way than it should."""
        with (self.logs / "guard.log").open("ab") as log:
            self._started["guard"] = subprocess.Popen(
                [sys.executable, "-m", "tests.testbed.cluster_site", str(self._path)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(
        self,
        part: str,
        command: Sequence[str | Path],
        *,
        variables: Mapping[str, object] | None = None,
        cpus: float | None = None,
        node: bool = False,
        output: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start one part of the cluster, in a cgroup of its own, with its output appended to its log.

        A node gets one in every hierarchy, with at most `cpus` of the processor.
        """
        cgroups = [self._cgroup(one, part) for one in (HIERARCHIES if node else (REGISTRY,))]
        if node:
            # All of a node weighs as much as one process where nothing is said; a kubelet counts so much a processor.
            (self._cgroup("cpu", part) / "cpu.shares").write_text(str(1024 * (os.cpu_count() or 1)))
        if cpus is not None:
            period = 100_000
            (self._cgroup("cpu", part) / "cpu.cfs_period_us").write_text(str(period))
            (self._cgroup("cpu", part) / "cpu.cfs_quota_us").write_text(str(int(cpus * period)))
        # It enters its cgroups before it is anything else, so that no process of ours is ever outside of them.
        enter = " && ".join(f"echo $$ > {shlex.quote(f'{one}/cgroup.procs')}" for one in cgroups)
        # No proxy stands between the parts of a cluster.
        environment = {"PATH": PATH, "HOME": str(Path.home())}
        environment |= {name: str(value) for name, value in (variables or {}).items()}
        with (self.logs / f"{part}.log").open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", f'{enter} && exec "$@"', "sh", *map(str, command)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log,
                # Ctrl-C on the terminal reaches the process that uses the cluster, and not the cluster.
                start_new_session=True,
            )
        self._started[part] = process
        _until(lambda: process.poll() is not None or process.pid in self.pids(part), f"{part} does not start")
        return process

    def pids(self, part: str = "") -> list[int]:
        """Return the running processes of one part, or of all."""
        found: list[int] = []
        for folder, _, _ in os.walk(Path(self.record.cgroups[REGISTRY], part)):
            # A cgroup may go, and its files with it, while they are looked at.
            with suppress(OSError):
                found += map(int, Path(folder, "cgroup.procs").read_text().split())
        return found

    def processor(self, node: str) -> Processor:
        """Return how much of the processor a node has used. Raises ClusterError when it has no power."""
        try:
            used = Path(self.record.cgroups["cpuacct"], node, "cpuacct.usage").read_text()
            told = Path(self.record.cgroups["cpu"], node, "cpu.stat").read_text().split()
        except OSError as error:
            raise ClusterError(f"{node} has no power") from error
        counted = dict(zip(told[::2], map(int, told[1::2]), strict=True))
        seconds = int(used) / 1e9
        return Processor(seconds=seconds, periods=counted["nr_periods"], throttled=counted["nr_throttled"])

    def check(self, *parts: str) -> None:
        """Raise ClusterError with the end of the log when one of the parts has ended."""
        for part in parts:
            if not self.pids(part):
                raise ClusterError(f"{part} ended:\n{self.tail(part)}")

    def tail(self, part: str) -> str:
        """Return the ends of a part's logs: its own, and for a node those of its daemons."""
        logs = [self.logs / f"{part}.log", *sorted(self.logs.glob(f"{part}.*.log"))]
        return "\n".join(f"{log.name}:\n{tail(log)}" for log in logs)

    def end(self, part: str = "") -> None:
        """Kill every process of one part, or of all, and remove its cgroups. Raises ClusterError."""
        _until(lambda: self._killed(part), f"not all processes of {part or 'the cluster'} ended")
        for name in [part] if part else list(self._started):
            # The guard is no part, and waits for the lock.
            if name in self._started and name != "guard":
                self._started.pop(name).wait()
        for base in self.record.cgroups.values():
            cgroup = Path(base, part)
            _until(partial(_removed, cgroup), f"{cgroup} is not removed")

    def clear(self) -> None:
        """Take everything away that a cluster left here; without one, nothing happens. Raises ClusterError.

        Begun again, it goes on where it stopped.
        """
        record = self.record
        if record.cgroups:
            self.end()
        # It goes with the switch, a moment later; without it, its addresses are free at once.
        if record.link in {name for _, name in socket.if_nameindex()}:
            with suppress(ClusterError):
                run(["ip", "link", "del", record.link])
            _until(lambda: record.link not in {name for _, name in socket.if_nameindex()}, f"{record.link} stays")
        for name, value in record.sysctls.items():
            Path("/proc/sys", name).write_text(value)
        for one in reversed(record.made):
            with suppress(OSError):  # somebody else's files may be in it by now
                Path(one).rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise ClusterError(f"{self.folder} cannot be removed")
        record.standing, record.cgroups, record.sysctls, record.made, record.link = False, {}, {}, [], ""

    def leave(self) -> None:
        """Give the lock back. What the record says is how things stay; without a cluster, the file goes as well."""
        if self.record.cgroups:
            self.save()
        else:
            self._path.unlink(missing_ok=True)
        guard = self._started.pop("guard", None)
        if guard is not None:
            guard.kill()
            guard.wait()
        # Python would complain of processes that nobody waits for any more.
        _outliving.extend(self._started.values())
        os.close(self._lock)

    def _killed(self, part: str) -> bool:
        pids = self.pids(part)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    def _cgroup(self, hierarchy: str, part: str) -> Path:
        cgroup = Path(self.record.cgroups[hierarchy], part)
        for one in (cgroup.parent, cgroup):
            one.mkdir(exist_ok=True)
            if hierarchy == "cpuset":
                # A new one is empty, and takes no process.
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (one / name).write_text((one.parent / name).read_text())
        return cgroup


def take(folder: Path | None = None, *, path: Path = RECORD) -> Site | None:
    """Lock the place. Without a `folder` for a new cluster, None where there is no cluster to be locked.

    Raises ClusterError when another process has it, and says which.
    """
    lock = _lock(path, create=folder is not None)
    if lock is None:
        return None
    record = read_record(path)
    if record is None:
        if folder is None:
            # Whoever made the file came no further.
            path.unlink()
            os.close(lock)
            return None
        record = Record(folder=str(folder), process=0, command="", since="")
    record.process, record.command = os.getpid(), shlex.join(sys.orig_argv)
    record.since = datetime.now().astimezone().strftime("%H:%M:%S")
    site = Site(path, lock, record)
    site.save()
    return site


def peek(path: Path = RECORD) -> Site | None:
    """Return the place without its lock, for `pids`, `start` and `end`; None where there is no cluster."""
    record = read_record(path)
    return Site(path, -1, record) if record is not None and record.cgroups else None


def read_record(path: Path = RECORD) -> Record | None:
    """Return what is known of the cluster of this machine; None where there is none."""
    try:
        return Record(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_locked(path: Path = RECORD) -> bool:
    """Tell whether a process brings the cluster up, uses it, or takes it down at this moment."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def run(
    command: Sequence[str | Path],
    *,
    seconds: float = 30,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    tether: bool = False,
) -> str:
    """Run a command to its end and return what it printed. Raises ClusterError with what it complained of.

    With `tether` it is killed when this process ends; others take no time worth mentioning.
    """
    line = shlex.join(map(str, command))
    before = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid())] if tether else []
    try:
        done = subprocess.run(
            [*before, *map(str, command)],
            input=stdin if stdin is not None else "",
            env={**(os.environ if environment is None else environment), "PATH": PATH},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise ClusterError(f"{command[0]}: not found on PATH") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{line}: not done after {seconds:g} s") from None
    if done.returncode != 0:
        raise ClusterError(f"{line}: {done.stderr.strip() or done.stdout.strip() or f'status {done.returncode}'}")
    return done.stdout


def _lock(path: Path, *, create: bool) -> int | None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            if time.monotonic() > deadline:
                raise ClusterError(f"the cluster of this machine {_holder(path)}") from None
            time.sleep(0.1)
            continue
        if _is_current(lock, path):
            return lock
        os.close(lock)


def _holder(path: Path) -> str:
    record = read_record(path)
    if record is None:
        return "is locked by another process"
    return f"is in use by process {record.process} since {record.since}: {record.command}"


def _is_current(lock: int, path: Path) -> bool:
    # Between opening and locking, another process may have removed the file, and a third made a new one.
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), path.stat())
    return False


def own_cgroups() -> dict[str, str]:
    """Return this process's cgroup in each hierarchy."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers.removeprefix("name=")] = path
    return own


def _removed(cgroup: Path) -> bool:
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with suppress(OSError):  # still busy for a moment after its last process ended
            Path(folder).rmdir()
    return not cgroup.exists()


def _until(condition: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{problem} within {END_SECONDS:g} s")
        time.sleep(0.02)


def main() -> int:
    """Guard the cluster of the process that started this one; status 1 when it could not be taken down."""
    path = Path(sys.argv[1])
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    fcntl.flock(lock, fcntl.LOCK_EX)
    record = read_record(path)
    if record is None or record.standing or not _is_current(lock, path):
        return 0
    site = Site(path, lock, record)
    try:
        site.clear()
    except (ClusterError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    site.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
