"""electionctl as a whole: its help, the scripts that complete it in shells, the description that it prints."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar import ctl

ROOT = Path(__file__).parents[2]


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the commands' parsers."""
    (choices,) = (action.choices for action in ctl._parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(choices)


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run electionctl in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["electionctl", *arguments])
    with pytest.raises(SystemExit) as ended:
        ctl.main()
    return ended.value.code if isinstance(ended.value.code, int) else -1


def test_which_commands_there_are() -> None:
    """These, and no others; every one of them stands in docs/electionctl.md."""
    assert set(commands()) == {
        "leaders",
        "watch",
        "step-down",
        "check",
        "demo",
        "simulate",
        "completion",
        "openapi",
    }
    documented = re.findall(
        r"^## `electionctl ([a-z-]+)`", (ROOT / "docs" / "electionctl.md").read_text(), re.MULTILINE
    )
    assert set(documented) == set(commands())


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_has_examples(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command's help shows examples, each of which can be typed so, and says what its exit statuses mean."""
    assert called(monkeypatch, name, "--help") == 0
    text = capsys.readouterr().out
    _, _, rest = text.partition("\nexamples:\n")
    examples, _, statuses = rest.partition("\nexit status:\n")
    typed = [line.partition("  # ")[0].partition(" > ")[0].split() for line in examples.splitlines() if line]
    assert typed
    for words in typed:
        assert words[:2] == ["electionctl", name]
        ctl._parser().parse_args(words[1:])
    told = {int(line.split()[0]) for line in statuses.splitlines()}
    assert {1, 2, 130} <= told


@pytest.mark.parametrize("name", sorted(set(commands()) - {"completion", "openapi"}))
def test_every_output_can_be_json(name: str) -> None:
    """Whatever has something to tell can tell it as JSON."""
    assert "--json" in commands()[name]._option_string_actions


def test_openapi(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints is the description that is in the package, and JSON."""
    assert called(monkeypatch, "openapi") == 0
    printed = capsys.readouterr().out
    assert printed == (ROOT / "sidecar" / "openapi.json").read_text()
    assert json.loads(printed)["openapi"].startswith("3.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shell's script names every command and their options."""
    assert called(monkeypatch, "completion", shell) == 0
    script = capsys.readouterr().out
    for name in commands():
        assert name in script
    assert "service-account" in script


def completed(script: str, *words: str) -> set[str]:
    """Return what bash offers for the last of these words."""
    typed = " ".join(f"'{word}'" for word in words)
    asked = f'COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _shtab_electionctl; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True, timeout=30
    )
    return {line.strip() for line in done.stdout.splitlines() if line.strip()}


def test_bash_completes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Bash takes its script, and completes a command, its options, and what an option accepts."""
    assert called(monkeypatch, "completion", "bash") == 0
    script = capsys.readouterr().out
    assert completed(script, "electionctl", "st") == {"step-down"}
    assert completed(script, "electionctl", "check", "--ser") == {"--service-account"}
    assert completed(script, "electionctl", "step-down", "--lock", "le") == {"leases"}


def test_an_unknown_shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused in one line; status 2."""
    assert called(monkeypatch, "completion", "tcl") == 2
    assert re.fullmatch(r"electionctl completion: [^\n]+\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments",
    [
        ("step-down",),
        ("step-down", "a/b"),
        ("step-down", "x", "--timeout", "0s"),
        ("step-down", "x", "--timeout", "5"),
        ("step-down", "x", "--lock", "both"),
        ("watch", "A"),
        ("check", "--pod", "../x"),
        ("check", "--as", "x", "--service-account", "y"),
        ("check", "-n", "a.b"),
    ],
    ids=" ".join,
)
def test_called_wrongly(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be meant is refused in one line; status 2."""
    assert called(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"electionctl {arguments[0]}: [^\n]+\n", printed.err)
