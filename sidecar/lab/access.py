"""Who may do what: bearer tokens stand for users, users have rules, as in a small RBAC."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sidecar.lab.resources import Resource
from sidecar.lab.status import ApiError, details, forbidden

_ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows `verbs` on `resources`: `endpoints`, `leases.coordination.k8s.io`, `*`.

    `names` and `namespaces` narrow it; empty means all. With names, a list or a watch is allowed only when its field
    selector asks for one of them, and a create never: as in RBAC, it has no name yet.
    """

    verbs: frozenset[str]
    resources: frozenset[str]
    names: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()

    def allows(self, verb: str, resource: str, namespace: str, name: str) -> bool:
        """Say whether this rule covers a request."""
        return (
            not self.verbs.isdisjoint((verb, _ANY))
            and not self.resources.isdisjoint((resource, _ANY))
            and (not self.names or name in self.names)
            and (not self.namespaces or namespace in self.namespaces)
        )


def rule(
    verbs: Iterable[str], resources: Iterable[str], names: Iterable[str] = (), namespaces: Iterable[str] = ()
) -> Rule:
    """Make a Rule from any iterables of strings."""
    return Rule(frozenset(verbs), frozenset(resources), frozenset(names), frozenset(namespaces))


@dataclass(frozen=True, slots=True)
class User:
    """A user and what it may do."""

    name: str
    rules: tuple[Rule, ...] = ()

    @property
    def is_admin(self) -> bool:
        """Whether some rule allows everything, paths outside the API included."""
        return any(_ANY in one.verbs and _ANY in one.resources for one in self.rules)


ADMIN: Final = User("admin", (rule("*", "*"),))
ANONYMOUS: Final = User("system:anonymous")


def require(user: User, verb: str, resource: Resource, namespace: str, name: str) -> None:
    """Raise ApiError 403, worded as the real server's, unless one of the user's rules allows the request."""
    if any(one.allows(verb, resource.qualified_plural, namespace, name) for one in user.rules):
        return
    what = f'{resource.qualified_plural} "{name}"' if name else resource.qualified_plural
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    message = (
        f'{what} is forbidden: User "{user.name}" cannot {verb} resource "{resource.plural}" '
        f'in API group "{resource.group}" {where}'
    )
    raise forbidden(message, details(resource, name))


def refused_path(user: User, path: str) -> ApiError:
    """403 for a path that is no resource."""
    return forbidden(f'forbidden: User "{user.name}" cannot get path "{path}"', {})
