"""What is logged, by this program or by a library, comes out in one format on one stream."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from sidecar import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Put structlog, the standard library's logging and the warnings back as they were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:
        root.removeHandler(handler)  # configure() closes the handlers that it replaces
    yield
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the objects that were logged, one a line."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_is_one_object_a_line_with_time_level_and_event_first() -> None:
    """Keys in the order time, level, event, context; the time is RFC 3339 in UTC; a line end in a value is escaped."""
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    before = datetime.now(UTC)
    structlog.get_logger().bind(election="e").info("leading", key="a\nb\udcff")
    (line,) = lines(stream)
    assert list(line) == ["time", "level", "event", "election", "key"]
    assert {**line, "time": ""} == {
        "time": "",
        "level": "info",
        "event": "leading",
        "election": "e",
        "key": "a\nb\udcff",
    }
    assert line["time"].endswith("Z")
    assert before <= datetime.fromisoformat(line["time"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("level", "ours", "libraries"),
    [
        ("debug", ["debug", "info", "warning", "error"], ["warning", "error"]),
        ("info", ["info", "warning", "error"], ["warning", "error"]),
        ("warning", ["warning", "error"], ["warning", "error"]),
        ("error", ["error"], ["error"]),
    ],
)
def test_levels(level: str, ours: list[str], libraries: list[str]) -> None:
    """Our own lines from the level on; the libraries' never below warning, because what they debug holds secrets."""
    stream = io.StringIO()
    logs.configure("json", level, stream)
    log, library = structlog.get_logger(), logging.getLogger("aiohttp.client")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("ours")
        getattr(library, name)("theirs %s", name)
    assert [line["level"] for line in lines(stream) if line["event"] == "ours"] == ours
    assert [line["level"] for line in lines(stream) if line["event"].startswith("theirs")] == libraries


@pytest.mark.parametrize("name", ["aiohttp.server", "asyncio", "kubernetes_asyncio.client.rest"])
def test_libraries_speak_in_the_same_format(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A library's line has the same keys, and its logger's name; nothing goes to standard output or error directly."""
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logging.getLogger(name).error("Unclosed %s", "connection")
    (line,) = lines(stream)
    assert list(line) == ["time", "level", "event", "logger"]
    assert (line["level"], line["event"], line["logger"]) == ("error", "Unclosed connection", name)
    assert tuple(capsys.readouterr()) == ("", "")


def test_warnings_of_python_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """A ResourceWarning about something unclosed is a line like every other."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("json", "info", stream)
        warnings.warn("unclosed transport", ResourceWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = lines(stream)
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "unclosed transport" in line["event"]
    assert tuple(capsys.readouterr()) == ("", "")


def fail() -> None:
    """Raise with a secret in a local variable."""
    secret = "hunter2"
    raise ValueError(len(secret))


def test_an_exception_is_one_structured_field_without_local_variables() -> None:
    """Type, value and frames, from structlog and from logging alike; local variables hold tokens and stay out."""
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("ours")
        logging.getLogger("asyncio").exception("theirs")
    assert [line["event"] for line in lines(stream)] == ["ours", "theirs"]
    for line in lines(stream):
        (exception,) = line["exception"]
        assert (exception["exc_type"], exception["exc_value"]) == ("ValueError", "7")
        assert exception["frames"][-1]["name"] == "fail"
    assert "hunter2" not in stream.getvalue()


def test_console_is_for_people() -> None:
    """Plain lines with the event, the context and a traceback without local variables; no colours off a terminal."""
    stream = io.StringIO()
    logs.configure("console", "info", stream)
    structlog.get_logger().info("leading", election="e")
    logging.getLogger("asyncio").warning("slow")
    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("failed")
    first, second, third, *rest = stream.getvalue().splitlines()
    assert "[info     ] leading" in first
    assert "election=e" in first
    assert "[warning  ] slow" in second
    assert "[asyncio]" in second
    assert "[error    ] failed" in third
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "ValueError: 7"
    assert "\x1b" not in stream.getvalue()
    assert "secret=" not in stream.getvalue()


def test_console_has_colours_on_a_terminal() -> None:
    """A terminal gets colours; JSON never does."""
    stream = Terminal()
    logs.configure("console", "info", stream)
    structlog.get_logger().info("leading")
    assert "\x1b[" in stream.getvalue()
    stream = Terminal()
    logs.configure("json", "info", stream)
    structlog.get_logger().info("leading")
    assert "\x1b" not in stream.getvalue()


def test_configuring_again_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """A second call moves everything to the new stream: no line twice, none to the old one."""
    first, second = io.StringIO(), io.StringIO()
    log = structlog.get_logger()
    logs.configure("json", "info", first)
    logs.configure("json", "error", second)
    log.error("ours")
    log.info("not heard")
    logging.getLogger("asyncio").error("theirs")
    assert [line["event"] for line in lines(second)] == ["ours", "theirs"]
    assert first.getvalue() == ""
    assert tuple(capsys.readouterr()) == ("", "")
