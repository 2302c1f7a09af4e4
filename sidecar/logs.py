"""One format for every line that is logged, our own and the libraries', on one stream."""

import logging
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_LIBRARIES = logging.WARNING  # their information is noise here, and what they debug can hold secrets
_MAX_FRAMES = 20  # of a traceback in one JSON line


def configure(log_format: str, log_level: str, stream: TextIO) -> None:
    """Send what structlog, the standard library's logging and Python's warnings say to `stream`, one way.

    `log_format` is "json" (one object a line: `time` in RFC 3339 UTC, `level`, `event`, then the context; an exception
    is one structured field) or "console" (for people, coloured on a terminal). `log_level` is the least level of our
    own lines; libraries are heard from warnings on, or from `log_level` if that is higher. May be called again.
    """
    level = logging.getLevelNamesMapping()[log_level.upper()]
    common: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    render: list[Processor] = _json() if log_format == "json" else _console(colours=stream.isatty())
    structlog.configure(
        processors=[*common, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, _LIBRARIES), force=True)
    logging.captureWarnings(capture=True)


def _json() -> list[Processor]:
    # Without the frames' local variables: they hold tokens.
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_MAX_FRAMES)
    return [
        structlog.processors.ExceptionRenderer(transformer),
        _time_level_event_first,
        structlog.processors.JSONRenderer(),
    ]


def _console(*, colours: bool) -> list[Processor]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=colours,
            timestamp_key="time",
            exception_formatter=structlog.dev.plain_traceback,  # a rich one would show local variables: tokens
        )
    ]


def _time_level_event_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {key: event.pop(key) for key in ("time", "level", "event") if key in event}
    return {**first, **event}
