"""Images made without any engine: one layer, written as the archive that `docker load` and `ctr images import` read."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What the kernel calls a machine, and what images call it."""


def write(
    target: Path, *, name: str, root: Path, config: Mapping[str, Any], without: Collection[str] = frozenset()
) -> None:
    """Write the image `name` with the files below `root`; nobody ever sees half of it.

    `config` is the container's part of the image's configuration, with OCI's names: `Env`, `Cmd`, `Labels`. Of the
    folders in `without`, as `usr/share/doc`, the contents are left out. Owners go in as they are.
    """

    def normal(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if any(entry.name.startswith(f"{folder}/") for folder in without):
            return None
        entry.uname = entry.gname = ""
        return entry

    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        layer, archive = Path(folder, "layer.tar"), Path(folder, "archive.tar")
        with tarfile.open(layer, "w") as tar:
            for entry in sorted(root.iterdir()):
                tar.add(entry, arcname=entry.name, filter=normal)
        with layer.open("rb") as file:
            diff = hashlib.file_digest(file, "sha256").hexdigest()
        image = {
            "created": datetime.now(UTC).isoformat(),
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
            "history": [{"created_by": "tests/testbed"}],
        }
        content = json.dumps(image).encode()
        identifier = hashlib.sha256(content).hexdigest()
        manifest = [{"Config": f"{identifier}.json", "RepoTags": [name], "Layers": [f"{diff}/layer.tar"]}]
        with tarfile.open(archive, "w") as tar:
            _add(tar, f"{identifier}.json", content)
            _add(tar, "manifest.json", json.dumps(manifest).encode())
            tar.add(layer, arcname=f"{diff}/layer.tar")
        archive.rename(target)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
