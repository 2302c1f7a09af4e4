"""leader-elector: the sidecar. Flags and environment become settings, settings become a running candidate."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType

OK, FAILED = 0, 1


def main() -> NoReturn:
    """Run the sidecar until it is told to end; exit 0, 1 when it failed, 2 when it was called wrongly."""
    # The first process of a container is not ended by a signal that it does not handle. So this comes first, and then
    # what takes a tenth of a second to import.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _nothing_held_yet)
    import asyncio  # noqa: PLC0415 - see above, as the next three
    import socket  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    from sidecar import imports, logs, settings  # noqa: PLC0415

    try:
        chosen = settings.load(sys.argv[1:], os.environ, socket.gethostname())
    except settings.HelpRequested:
        sys.stdout.write(settings.usage())
        sys.exit(OK)
    except settings.UsageError as error:
        sys.stderr.write(f"{error.usage}leader-elector: {error}\n")
        sys.exit(error.exit_code)
    logs.configure(chosen.log_format, chosen.log_level, sys.stderr)
    log = structlog.get_logger().bind(election=chosen.election, identity=chosen.identity)
    imports.make_lazy()
    from sidecar import program  # noqa: PLC0415 - half a second of libraries; a wrong flag is told before

    try:
        asyncio.run(program.run(chosen, log))
    except program.StartError as error:
        sys.stderr.write(f"leader-elector: {error}\n")
        sys.exit(error.exit_code)
    except Exception:
        log.critical("ended by a defect of the program", exc_info=True)
        sys.exit(FAILED)
    sys.exit(OK)


def _nothing_held_yet(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(OK)


if __name__ == "__main__":
    main()
