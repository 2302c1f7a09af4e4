"""An engine for tests that need none: it has what it is given, and records what it is told."""

from __future__ import annotations

from tests.testbed.engine import Engine


class FakeEngine(Engine):
    """Has images by name, with their labels, and records what it is told."""

    def __init__(
        self, *, images: dict[str, dict[str, str]] | None = None, registry: bool = False, private: bool = True
    ) -> None:
        super().__init__("unix:///nowhere")
        self.images = images or {}
        self.registry = registry
        self.private = private
        self.told: list[str] = []

    @property
    def is_private(self) -> bool:
        """Tell whether what is put there may stay."""
        return self.private

    def image_labels(self, name: str) -> dict[str, str] | None:
        """Return an image's labels."""
        return self.images.get(name)

    def pull(self, name: str, *, seconds: float) -> bool:
        """Pull an image, where there is a registry."""
        assert seconds > 0
        self.told.append(f"pull {name}")
        return self.registry

    def command(self, *command: str, seconds: float) -> str:
        """Record a program's command line."""
        return self.run(*command, seconds=seconds)

    def run(self, *arguments: str, seconds: float = 0) -> str:
        """Record what docker is told."""
        assert seconds >= 0
        self.told.append(" ".join(arguments))
        return ""
