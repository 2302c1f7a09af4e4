"""The real API server, with a log of who asked for what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.bench.figures import Request, parse_audit
from tests.testbed.apiserver import LocalAPIServer

if TYPE_CHECKING:
    from pathlib import Path

# One line for each request of a candidate, as it is received: so a watch is seen when it starts, not when it ends.
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["ResponseStarted", "ResponseComplete", "Panic"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}


class AuditedAPIServer(LocalAPIServer):
    """A real API server that logs the requests of service accounts. Raises as `LocalAPIServer`."""

    def __init__(self, folder: Path) -> None:
        policy = folder / "audit-policy.json"
        policy.write_text(json.dumps(POLICY))
        self._audit_log = folder / "audit.log"
        self._audit_log.touch()
        self._told = 0
        super().__init__(
            folder,
            arguments=[
                f"--audit-policy-file={policy}",
                f"--audit-log-path={self._audit_log}",
                # In MiB: it is never put away for a new one while somebody reads on.
                "--audit-log-maxsize=1000000",
            ],
        )

    def requests(self) -> list[Request]:
        """Return what was logged since this was asked last; a request whose line is not whole yet comes next time."""
        with self._audit_log.open("rb") as log:
            log.seek(self._told)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._told += len(whole)
        return parse_audit(whole.decode())
