"""One target under the fuzzer, in a process of its own: `python -m tests.safety.fuzz.campaign TARGET [OPTIONS] FOLDER`.

The options are libFuzzer's. The process ends at the first finding, or when its time is over.
"""

from __future__ import annotations

import sys
from importlib import import_module

from tests.safety.fuzz import targets


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    # By its name, because it is not there on every machine on which types are checked.
    atheris = import_module("atheris")
    # What is imported in here reports which of its branches are taken. The lab is not under test.
    with atheris.instrument_imports(include=["sidecar"], exclude=["sidecar.lab"]):
        target = targets.load(sys.argv[1])
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
