"""What a replica is told by its environment. ../README.md has the list for people."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_PORT = 65535


class SettingError(Exception):
    """A variable that makes no sense; the message is one line that names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One replica's."""

    name: str
    peers: Mapping[str, str]
    """Host and replication port of every other replica, by its name."""
    data: Path
    host: str
    port: int
    replication_port: int
    sidecar: str
    writes: Literal["forward", "redirect"]
    redirect_to: str
    log_kept: int


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings. Raises SettingError."""
    name = environment.get("POD_NAME") or socket.gethostname()
    peers = _peers(environment.get("PEERS", ""))
    if name not in peers:
        raise SettingError(f"PEERS: {name}, which POD_NAME or the host name says, is not among {', '.join(peers)}")
    writes = environment.get("WRITES", "forward")
    if writes not in {"forward", "redirect"}:
        raise SettingError(f"WRITES={writes}: it is forward or redirect")
    redirect_to = environment.get("REDIRECT_TO", "")
    if writes == "redirect" and "{name}" not in redirect_to:
        raise SettingError("REDIRECT_TO: with WRITES=redirect it is a URL like http://{name}.store-peers:8080")
    data = Path(environment.get("DATA", "/data"))
    if not data.is_dir():
        raise SettingError(f"DATA={data}: there is no such folder")
    return Settings(
        name=name,
        peers={peer: address for peer, address in peers.items() if peer != name},
        data=data,
        host=environment.get("HOST", ""),
        port=_number(environment, "PORT", 8080, most=LARGEST_PORT),
        replication_port=_number(environment, "REPLICATION_PORT", 8081, most=LARGEST_PORT),
        sidecar=environment.get("SIDECAR", "http://localhost:4040").rstrip("/"),
        writes=cast("Literal['forward', 'redirect']", writes),
        redirect_to=redirect_to,
        log_kept=_number(environment, "LOG_KEPT", 10_000, most=10_000_000),
    )


def _peers(text: str) -> dict[str, str]:
    peers: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, address = part.partition("=")
        host, _, port = address.rpartition(":")
        if not (name and host and port.isdecimal()) or name in peers:
            raise SettingError(
                f"PEERS: {part!r} is not a new name=host:port; the list is like store-0=store-0.store-peers:8081,..."
            )
        peers[name] = address
    return peers


def _number(environment: Mapping[str, str], name: str, default: int, *, most: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise SettingError(f"{name}={text}: it is a number from 1 to {most}")
    return int(text)
