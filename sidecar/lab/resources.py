"""The six resources that the embedded API server knows, and how each one bends the general rules."""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Object: TypeAlias = dict[str, Any]
"""An API object as JSON gives it."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource type. The switches repeat the real server's strategy of that resource."""

    plural: str
    kind: str
    fields: tuple[str, ...]
    """Top-level fields beside kind, apiVersion and metadata. Others are dropped, as by the real server's decoder."""
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    unconditional_update: bool = True
    """An update without a resourceVersion overwrites whatever is there."""
    create_on_update: bool = False
    """PUT on a missing object creates it."""
    generation: bool = False
    """metadata.generation counts the changes of spec."""
    graceful_deletion: bool = False
    """Deletion waits for a grace period: an object bound to a node is first marked only."""
    answers_deleted_object: bool = False
    """DELETE answers the object; otherwise a Status that names it."""
    selectable_fields: tuple[str, ...] = ()
    """Fields beside metadata.name and metadata.namespace that a field selector may name."""

    @property
    def api_version(self) -> str:
        """The value of `apiVersion`: group and version, or the version alone in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified_plural(self) -> str:
        """The resource as messages and access rules name it: `endpoints`, `leases.coordination.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """The kind as messages on invalid objects name it: `Endpoints`, `Lease.coordination.k8s.io`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


ENDPOINTS: Final = Resource("endpoints", "Endpoints", ("subsets",), create_on_update=True)
LEASES: Final = Resource(
    "leases",
    "Lease",
    ("spec",),
    group="coordination.k8s.io",
    unconditional_update=False,
    create_on_update=True,
)
PODS: Final = Resource(
    "pods",
    "Pod",
    ("spec", "status"),
    generation=True,
    graceful_deletion=True,
    answers_deleted_object=True,
    selectable_fields=("spec.nodeName", "status.phase"),
)
EVENTS: Final = Resource(
    "events",
    "Event",
    (
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "series",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ),
    create_on_update=True,
    selectable_fields=("involvedObject.kind", "involvedObject.name", "involvedObject.namespace", "reason", "type"),
)
NAMESPACES: Final = Resource(
    "namespaces",
    "Namespace",
    ("spec", "status"),
    namespaced=False,
    answers_deleted_object=True,
    selectable_fields=("status.phase",),
)

NODES: Final = Resource("nodes", "Node", ("spec", "status"), namespaced=False)

RESOURCES: Final = (ENDPOINTS, LEASES, PODS, EVENTS, NAMESPACES, NODES)
