"""Label selectors and field selectors: parsed once, matched often.

The grammar and the error texts are those of k8s.io/apimachinery `pkg/labels` and `pkg/fields`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.lab.resources import Object, Resource
from sidecar.lab.status import bad_request
from sidecar.lab.validation import label_value_errors, quoted, selector_key_errors

_TOKEN: Final = re.compile(r"\s*(==|!=|[=!(),<>]|[^\s=!(),<>]+)")
_SYMBOLS: Final = frozenset({"==", "!=", "=", "!", "(", ")", ",", "<", ">"})
_BINARY: Final = {"in": "in", "notin": "notin", "=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}
_END: Final = ""
_INTEGER: Final = re.compile(r"[-+]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One comma-separated part of a label selector. `operator` is one of `in`, `notin`, `exists`, `!`, `gt`, `lt`."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Say whether an object with these labels satisfies this requirement."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        if value is None or not _INTEGER.fullmatch(value):
            return False
        (bound,) = self.values
        return int(value) > int(bound) if self.operator == "gt" else int(value) < int(bound)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A parsed label selector. The empty one matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.requirements)

    def matches(self, stored: Object) -> bool:
        """Say whether an object has the labels that are asked for."""
        if not self.requirements:
            return True
        labels = stored["metadata"].get("labels", {})
        return all(requirement.matches(labels) for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """A parsed field selector: (path, equal or not, value) for every part. The empty one matches everything."""

    terms: tuple[tuple[str, bool, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.terms)

    def required(self, path: str) -> str | None:
        """The one value that `path` must have, or None where there is no such value."""
        return next((value for term, equal, value in self.terms if equal and term == path), None)

    def matches(self, stored: Object) -> bool:
        """Say whether an object has the field values that are asked for; a field that is not there is empty."""
        return all((_field(stored, path) == value) is equal for path, equal, value in self.terms)


def _field(stored: Object, path: str) -> str:
    value: object = stored
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return value if isinstance(value, str) else ""


def parse_label_selector(text: str) -> LabelSelector:
    """Parse what stands in `labelSelector=`. Raises ApiError (400) where the real server does."""
    tokens = _tokens(text)
    requirements: list[Requirement] = []
    if tokens.peek() == _END:
        return LabelSelector()
    if tokens.peek() != "!" and tokens.peek() in _SYMBOLS:
        raise bad_request(f"found '{tokens.peek()}', expected: !, identifier, or 'end of string'")
    while True:
        requirements.append(_requirement(tokens))
        separator = tokens.take()
        if separator == _END:
            return LabelSelector(tuple(requirements))
        if separator != ",":
            raise bad_request(f"found '{separator}', expected: ',' or 'end of string'")
        following = tokens.peek()
        if following == _END or (following in _SYMBOLS and following != "!"):
            raise bad_request(f"found '{following}', expected: identifier after ','")


class _Tokens:
    """The words and symbols of a selector, one after the other, then `_END` for ever."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = list(words)
        self._next = 0

    def peek(self) -> str:
        return self._words[self._next] if self._next < len(self._words) else _END

    def take(self) -> str:
        word = self.peek()
        self._next += 1
        return word


def _tokens(text: str) -> _Tokens:
    return _Tokens(match[1] for match in _TOKEN.finditer(text))


def _requirement(tokens: _Tokens) -> Requirement:
    negated = tokens.peek() == "!"
    if negated:
        tokens.take()
    key = tokens.take()
    if key == _END or key in _SYMBOLS:
        raise _unparsable(f"found '{key}', expected: identifier")
    for error in selector_key_errors(key):
        raise _unparsable(f"<nil>: Invalid value: {quoted(key)}: {error}")
    if tokens.peek() in {_END, ","}:
        return Requirement(key, "!" if negated else "exists")
    word = tokens.take()
    operator = _BINARY.get(word)
    if operator is None:
        raise _unparsable(f"found '{word}', expected: in, notin, =, ==, !=, gt, lt")
    values = _value_list(tokens) if word in {"in", "notin"} else [_exact_value(tokens)]
    for index, value in enumerate(sorted(values)):
        if operator in {"gt", "lt"} and not _INTEGER.fullmatch(value):
            raise _unparsable(
                f"values[{index}][{key}]: Invalid value: {quoted(value)}: "
                "for 'Gt', 'Lt' operators, the value must be an integer"
            )
        for error in label_value_errors(value):
            raise _unparsable(f"values[{index}][{key}]: Invalid value: {quoted(value)}: {error}")
    return Requirement(key, operator, frozenset(values))


def _exact_value(tokens: _Tokens) -> str:
    if tokens.peek() in {_END, ","}:
        return ""
    value = tokens.take()
    if value in _SYMBOLS:
        raise _unparsable(f"found '{value}', expected: identifier")
    return value


def _value_list(tokens: _Tokens) -> list[str]:
    """Read `(a,b)`. As in the real parser, an empty place between commas is the empty value."""
    opening = tokens.take()
    if opening != "(":
        raise _unparsable(f"found '{opening}' expected: '('")
    if tokens.peek() == ")":
        tokens.take()
        return []
    values = [""]
    while True:
        word = tokens.take()
        if word == ")":
            return values
        if word == ",":
            values.append("")
        elif word == _END or word in _SYMBOLS or values[-1]:
            raise _unparsable(f"found '{word}', expected: ',' or ')'")
        else:
            values[-1] = word


def _unparsable(why: str) -> Exception:
    return bad_request(f"unable to parse requirement: {why}")


def parse_field_selector(text: str, resource: Resource) -> FieldSelector:
    """Parse what stands in `fieldSelector=`. Raises ApiError (400) where the real server does."""
    terms: list[tuple[str, bool, str]] = []
    for part in re.split(r"(?<!\\),", text):
        if not part:
            continue
        path, operator, value = _split_field(part)
        if not operator:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        known = ("metadata.name", "metadata.namespace") if resource.namespaced else ("metadata.name",)
        if path not in (*known, *resource.selectable_fields):
            if resource.selectable_fields:
                raise bad_request(f"field label not supported: {path}")
            only = ", ".join(quoted(name) for name in known)
            raise bad_request(f"{quoted(path)} is not a known field selector: only {only}")
        terms.append((path, operator != "!=", re.sub(r"\\(.)", r"\1", value)))
    return FieldSelector(tuple(terms))


def _split_field(part: str) -> tuple[str, str, str]:
    found = re.search(r"!=|==|=", part)
    return (part[: found.start()], found[0], part[found.end() :]) if found else (part, "", "")
