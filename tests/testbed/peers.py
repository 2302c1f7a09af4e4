"""Other leader electors to stand in one election with ours: found in the cache, or built.

`python -m tests.testbed.peers` prints the path of the client-go elector.
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
    folder = golang.cache() / "peers" / golang.digest(CLIENTGO)
    program = golang.Program(name="clientgo", package=".")
    golang.ensure([program], module=CLIENTGO, folder=folder, announce="(about a minute with nothing cached) ...")
    return folder / program.name


def main() -> int:
    """Print the path; status 1 and one line on stderr when the program cannot be had."""
    try:
        program = clientgo()
    except golang.BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{program}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
