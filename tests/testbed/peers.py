"""Other leader electors to stand in one election with ours: found in the cache, or built.

`python -m tests.testbed.peers` prints the paths of client-go's elector: that on Endpoints, and that on Leases.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.testbed import golang

CLIENTGO = Path(__file__).parents[1] / "peers" / "clientgo"


def clientgo() -> Path:
    """Return the program that is client-go's leader elector on the Endpoints lock, with the stock image's flags.

    A build takes about a minute with nothing cached; progress goes to stderr. Raises golang.BuildError.
    """
    return _built(golang.Program(name="clientgo", package="."))


def clientgo_lease() -> Path:
    """Return the same on the Lease lock, made of today's client-go. Raises golang.BuildError."""
    return _built(golang.Program(name="clientgo-lease", package=".", modfile="lease.mod", tags="lease"))


def _built(program: golang.Program) -> Path:
    folder = golang.cache() / "peers" / golang.digest(CLIENTGO)
    golang.ensure([program], module=CLIENTGO, folder=folder, announce="(about a minute with nothing cached) ...")
    return folder / program.name


if __name__ == "__main__":
    sys.exit(golang.command(clientgo, clientgo_lease))
