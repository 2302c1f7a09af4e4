"""The images that the tests need beside the project's own: there already, pulled, or made here under the same name.

`python -m tests.testbed.standins` makes all of them and prints where their archives are.

What is made here stands in for a published image where nothing can be pulled: Debian's packages, or programs built
from source, under the published image's name. It carries the label `leader-elector.stand-in`, so that nobody
publishes it, and does what the tests and the examples ask of it, no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.testbed import binaries, commands, dockerarchive, golang
from tests.testbed.engine import EngineError
from tests.testbed.exclusive import exclusive
from tests.testbed.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.testbed.engine import Engine

PYTHON = "python:3.15-slim"
CURL = "curlimages/curl:8.16.0"
PAUSE = "registry.k8s.io/pause:3.10"
ETCD = f"quay.io/coreos/etcd:v{binaries.version('go.etcd.io/etcd/server/v3')}"
APISERVER = f"registry.k8s.io/kube-apiserver:v{binaries.version('k8s.io/kubernetes')}"

LABEL = "leader-elector.stand-in"
LABEL_RECIPE = f"{LABEL}.recipe"
"""Says what a stand-in was made from, so that an engine's old one is replaced."""

PULL_SECONDS = 90
"""Where an image can be pulled, it is there by then; where it cannot, most engines say so at once."""

UNPULLED_SECONDS = 24 * 3600
"""For how long nobody asks again for an image that could not be pulled, where a stand-in of it is at hand."""

KEPT_SECONDS = 14 * 24 * 3600
"""How long the cache keeps an archive before a new one takes its place; one that is missed is made again."""

ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Runs a command whose processes and mounts end with it, also when it is killed."""

DEBIAN = "forky"
DEBIAN_SECONDS = 600
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SCRIPTS = Path("/usr/share/debootstrap/scripts")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

SURPLUS = frozenset(
    {
        "proc",
        "sys",
        "dev",
        "var/cache/apt",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    }
)
"""Folders of a Debian system that stay empty in an image."""

ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnobody:x:65534:\n",
}

# What the published image's entry point does: flags, or what is no command, are for curl.
CURL_ENTRY_POINT = """\
#!/bin/sh
set -e
if [ "${1#-}" != "${1}" ] || [ -z "$(command -v "${1}")" ]; then
  set -- curl "$@"
fi
exec "$@"
"""


class StandInError(Exception):
    """An image could not be had; the message is one line that says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a stand-in is made: what its file system holds, and how a container of it starts."""

    fill: Callable[[Path], None]
    """Puts the files into an empty folder. Raises StandInError or golang.BuildError."""
    config: Mapping[str, Any]
    built: bool = False
    """Holds programs that are built here."""

    def digest(self) -> str:
        """Eight hexadecimal digits that change with what the image is made from."""
        content = hashlib.sha256(golang.digest(binaries.MODULE).encode() if self.built else b"")
        for file in (Path(__file__), Path(dockerarchive.__file__)):
            content.update(file.read_bytes())
        return content.hexdigest()[:8]


def ensure(engine: Engine, *names: str) -> None:
    """See to it that an engine has these images: those that it does not have are pulled, else made and loaded.

    What is loaded into an engine that is not private goes again with the last of the engine's users here that closes
    it. Progress goes to stderr. Raises StandInError, golang.BuildError, or engine.EngineError.
    """
    for name in names:
        guest = None if engine.is_private else _Guest(engine, name)
        if not _has(engine, name) and not _pull(engine, name):
            if name not in RECIPES:
                raise StandInError(f"{name} cannot be pulled, and nothing here stands in for it")
            engine.run("load", "--input", str(archive(name)))
            if guest:
                guest.arrived()


def _pull(engine: Engine, name: str) -> bool:
    """Pull an image, unless that failed not long ago; tell whether it is there."""
    if name not in RECIPES:
        return engine.pull(name, seconds=PULL_SECONDS)
    failed = unpulled_path(name)
    with contextlib.suppress(FileNotFoundError):
        if archive_path(name).exists() and time.time() - failed.stat().st_mtime < UNPULLED_SECONDS:
            return False
    if engine.pull(name, seconds=PULL_SECONDS):
        return True
    failed.parent.mkdir(parents=True, exist_ok=True)
    failed.touch()
    return False


class _Guest:
    """A stand-in in an engine that goes on: removed when the last one here that asked for it closes the engine.

    Each of them holds a shared lock on a file, which says whether one of them loaded the stand-in.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, name
        host = hashlib.sha256(engine.host.encode()).hexdigest()[:8]
        path = golang.cache() / "images" / f"{_file_name(name)}.loaded-{host}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+")
        # Who removes one has it for a moment.
        fcntl.flock(self._file, fcntl.LOCK_SH)
        engine.at_close.callback(self._leave)

    def arrived(self) -> None:
        """Note that it was loaded, and is to be removed."""
        self._file.write("loaded\n")
        self._file.flush()

    def _leave(self) -> None:
        with self._file as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.seek(0)
            if file.read():
                with contextlib.suppress(EngineError):
                    # Somebody may have pulled the published one meanwhile.
                    if LABEL in (self._engine.image_labels(self._name) or {}):
                        self._engine.run("image", "rm", self._name)
                    file.truncate(0)


def archive(name: str) -> Path:
    """Return a stand-in as a docker archive, made now unless the cache has it. Needs root for those with Debian in it.

    Progress goes to stderr. Raises StandInError or golang.BuildError.
    """
    if name not in RECIPES:
        raise StandInError(f"nothing here stands in for {name}; known are {', '.join(RECIPES)}")
    target = archive_path(name)
    if target.exists():
        return target
    with exclusive(target.with_name(".lock")):
        if not target.exists():
            _forget_old(target.parent)
            progress(f"making a stand-in for the image {name} ...")
            recipe = RECIPES[name]
            labels = {LABEL: "never publish", LABEL_RECIPE: recipe.digest()}
            with tempfile.TemporaryDirectory(prefix="leader-elector-stand-in-") as folder:
                root = Path(folder, "root")
                root.mkdir(mode=0o755)
                recipe.fill(root)
                dockerarchive.write(
                    target, name=name, root=root, config={**recipe.config, "Labels": labels}, without=SURPLUS
                )
    return target


def _forget_old(folder: Path) -> None:
    """Remove the archives that other recipes made long ago."""
    for file in folder.glob("*.tar*"):
        if file.stat().st_mtime < time.time() - KEPT_SECONDS:
            file.unlink()


def _has(engine: Engine, name: str) -> bool:
    labels = engine.image_labels(name)
    # An old stand-in, of another recipe, does not count.
    return labels is not None and (LABEL not in labels or labels.get(LABEL_RECIPE) == RECIPES[name].digest())


def archive_path(name: str) -> Path:
    """Return where the archive of a stand-in is kept, whether it is there or not."""
    return golang.cache() / "images" / f"{_file_name(name)}-{RECIPES[name].digest()}.tar"


def unpulled_path(name: str) -> Path:
    """Return the file whose time says when an image with a stand-in could not be pulled, whether it is there or not."""
    kept = archive_path(name)
    return kept.with_name(f"{kept.name}.unpulled")


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name)


# -- With Debian's packages --------------------------------------------------------------------------------------------


def _python(root: Path) -> None:
    _debian(root, "python3.15", "python3.15-venv", "ca-certificates")
    for name in ("python", "python3", "python3.15"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.15")


def _curl(root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="leader-elector-debian-") as folder:
        debian = Path(folder)
        _debian(debian, "curl", "busybox-static", "ca-certificates")
        (root / "usr/bin").mkdir(parents=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            (root / link).symlink_to("usr/bin" if "bin" in link else f"usr/{link}")
        libraries = re.findall(r"(/\S+) \(0x", _output("chroot", str(debian), "ldd", "/usr/bin/curl"))
        for file in ("/usr/bin/curl", "/usr/bin/busybox", "/etc/ssl/certs/ca-certificates.crt", *libraries):
            # Both have /lib as a link to /usr/lib, and a link that starts with a slash is meant from their own root.
            target = root / re.sub(r"^/(lib\w*)/", r"usr/\1/", file).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(debian / file.lstrip("/"), target)
        for applet in _output("chroot", str(debian), "busybox", "--list").split():
            if not (root / "usr/bin" / applet).exists():
                (root / "usr/bin" / applet).symlink_to("busybox")
    _write(root, ACCOUNTS)
    with (root / "etc/passwd").open("a") as passwd, (root / "etc/group").open("a") as group:
        passwd.write("curl_user:x:100:101::/home/curl_user:/bin/sh\n")
        group.write("curl_group:x:101:curl_user\n")
    (root / "home/curl_user").mkdir(parents=True)
    os.chown(root / "home/curl_user", 100, 101)
    _write(root, {"entrypoint.sh": CURL_ENTRY_POINT}, mode=0o755)
    _temporary_folder(root)


def _debian(root: Path, *packages: str) -> None:
    """Install a minimal Debian, with the machine's own certificate authorities, which its mirror may need."""
    without = "the image cannot be pulled, and a stand-in cannot be made without"
    if os.geteuid() != 0:
        raise StandInError(f"{without} root")
    if shutil.which("debootstrap", path=commands.path()) is None:
        raise StandInError(f"{without} debootstrap; on Debian: apt-get install debootstrap")
    if not KEYRING.exists():
        raise StandInError(f"{without} {KEYRING}, Debian's keys; on Debian: apt-get install debian-archive-keyring")
    checked = ("--force-check-gpg", f"--keyring={KEYRING}")
    command = ["debootstrap", "--variant=minbase", *checked, f"--include={','.join(packages)}"]
    command += [DEBIAN, str(root), _mirror()]
    if not (SCRIPTS / DEBIAN).exists():
        command.append(str(SCRIPTS / "sid"))
    _output(*command, seconds=DEBIAN_SECONDS, within=ALONE)
    if CERTIFICATES.exists():
        shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))


def _mirror(apt: Path = Path("/etc/apt")) -> str:
    """Return the Debian mirror of the machine's own apt; empty, and so debootstrap's default, where it has none."""
    debian = re.compile(r"^(?:deb|URIs:)\s(?:.*\s)?(https?://\S+/debian)/?(?=\s|$)", re.MULTILINE)
    for file in (apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))):
        if file.suffix in {".list", ".sources"} and file.exists() and (found := debian.search(file.read_text())):
            return found[1]
    return ""


# -- With programs that are built here ---------------------------------------------------------------------------------


def _pause(root: Path) -> None:
    shutil.copy2(binaries.ensure_programs("pause") / "pause", root / "pause")


def _etcd(root: Path) -> None:
    _programs(root, "etcd", "etcdctl")
    for folder in ("var/etcd", "var/lib/etcd"):
        (root / folder).mkdir(parents=True)


def _apiserver(root: Path) -> None:
    _programs(root, "kube-apiserver")


def _programs(root: Path, *names: str) -> None:
    built = binaries.ensure_programs(*names)
    (root / "usr/local/bin").mkdir(parents=True)
    for name in names:
        shutil.copy2(built / name, root / "usr/local/bin" / name)
    _write(root, ACCOUNTS)
    _temporary_folder(root)


# -- Files and commands ------------------------------------------------------------------------------------------------


def _write(root: Path, files: Mapping[str, str], *, mode: int = 0o644) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)


def _temporary_folder(root: Path) -> None:
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)


def _output(*command: str, seconds: float = 60, within: Sequence[str] = ()) -> str:
    return commands.run(*command, error=StandInError, seconds=seconds, tether=True, within=within)


_PATH = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"

RECIPES: Mapping[str, Recipe] = {
    PYTHON: Recipe(fill=_python, config={"Env": [_PATH], "Cmd": ["python3"]}),
    CURL: Recipe(
        fill=_curl,
        config={"Env": [_PATH], "User": "curl_user", "Entrypoint": ["/entrypoint.sh"], "Cmd": ["curl"]},
    ),
    PAUSE: Recipe(fill=_pause, config={"User": "65535:65535", "Entrypoint": ["/pause"]}, built=True),
    ETCD: Recipe(
        fill=_etcd,
        config={"Env": [_PATH], "WorkingDir": "/var/etcd/", "Cmd": ["/usr/local/bin/etcd"]},
        built=True,
    ),
    APISERVER: Recipe(fill=_apiserver, config={"Env": [_PATH]}, built=True),
}
"""The images that can be made here, by name."""


def main() -> int:
    """Make every stand-in and print the archives, one a line; status 1 and one line on stderr when one fails."""
    try:
        for name in RECIPES:
            sys.stdout.write(f"{name} {archive(name)}\n")
    except (StandInError, golang.BuildError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
