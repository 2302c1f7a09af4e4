"""What Go's encoding/json writes, stated a second time and in another way than the sidecar states it.

From the source of Go's `appendString` with `escapeHTML`, as `json.Marshal` calls it (Go 1.22 and later).
"""

from __future__ import annotations

from collections.abc import Mapping

_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SPACE = 0x20


def marshal(value: Mapping[str, object] | str | int) -> str:
    """Return what Go writes for a struct with these fields, in this order."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_string(key)}:{marshal(part)}" for key, part in _parts(value)) + "}"
    return _string(value) if isinstance(value, str) else f"{value:d}"


def _parts(value: Mapping[str, object]) -> list[tuple[str, str | int]]:
    return [(key, part) for key, part in value.items() if isinstance(part, str | int)]


def _string(text: str) -> str:
    return '"' + "".join(map(_character, text)) + '"'


def _character(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if ord(character) < _SPACE or character in "<>&\u2028\u2029":
        return f"\\u{ord(character):04x}"
    return character
