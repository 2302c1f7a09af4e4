"""The real API server, with a log of who asked for what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

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
        super().__init__(folder, arguments=[f"--audit-policy-file={policy}", f"--audit-log-path={self._audit_log}"])

    def audit_log(self) -> str:
        """Return what was logged so far."""
        return self._audit_log.read_text()
