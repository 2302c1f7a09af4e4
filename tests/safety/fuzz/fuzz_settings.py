"""Flags and environment: any of them give settings that hold together, the help, or one line and exit code 2."""

from __future__ import annotations

from sidecar import settings
from sidecar.settings import HelpRequested, Settings, UsageError
from tests.safety.fuzz.choices import Choices

TOKENS = (
    *(f"--{option.flag}" for option in settings.TABLE if option.flag),
    *(option.variable for option in settings.TABLE if option.variable),
    "--election=e",
    "--",
    "$(POD_NAME)",
    ":4040",
    "[::1]:4040",
    "[fe80::1%eth0]:80",
    "1m30s",
    "500ms",
    "24h",
)

_LONGEST_LINE = 1600
"""Characters: a value is repeated twice, 64 characters of it, of which each may have to be written in ten."""


def check(data: bytes) -> None:
    """Fail on anything but settings, help, or a line that a terminal shows as one."""
    choices = Choices(data)
    arguments, variables = choices.number() % 16, choices.number() % 16
    argv = [_argument(choices) for _ in range(arguments)]
    environ = {_name(choices): choices.text().replace("\0", "") for _ in range(variables)}
    hostname = choices.text()
    try:
        chosen = settings.load(argv, environ, hostname)
    except HelpRequested:
        return
    except UsageError as refused:
        _check_refusal(refused)
        return
    for warning in chosen.warnings:
        _check_line(warning)
    _check(chosen)


def _check_refusal(refused: UsageError) -> None:
    assert refused.exit_code == 2
    assert refused.usage in ("", settings.usage())
    _check_line(str(refused))


def _argument(choices: Choices) -> str:
    form = choices.number()
    if form % 4 == 0:
        return choices.text().replace("\0", "")
    option = settings.TABLE[form // 4 % len(settings.TABLE)]
    value = "=" + choices.text().replace("\0", "") if form % 4 > 1 else ""
    return ("--" if form % 4 < 3 else "-") + option.flag + value


def _name(choices: Choices) -> str:
    form = choices.number()
    if form % 4 == 0:
        return choices.text().replace("\0", "").replace("=", "")
    return settings.TABLE[form // 4 % len(settings.TABLE)].variable


def _check_line(line: str) -> None:
    assert line.isprintable(), line
    assert len(line) < _LONGEST_LINE
    line.encode()


def _check(chosen: Settings) -> None:
    assert 0 < chosen.retry_period < chosen.renew_deadline < chosen.ttl <= chosen.lease_seconds
    assert chosen.lease_seconds < chosen.ttl + 1
    assert 0 < chosen.request_timeout < chosen.renew_deadline
    assert 2 * chosen.request_timeout <= chosen.renew_deadline - chosen.retry_period + 1e-6
    for name in (chosen.election, chosen.identity, chosen.namespace, chosen.group):
        assert name
        assert name.isprintable()
        name.encode()
    for part in (chosen.pod_uid, chosen.node_name):
        part.encode()
    assert "/" not in chosen.election + chosen.namespace
    if chosen.http is not None:
        assert 0 <= chosen.http.port < 2**16
        assert settings.load(["--election=e", f"--http={chosen.http}"], {}, "h").http == chosen.http
    assert 1 <= chosen.weight <= 1000
