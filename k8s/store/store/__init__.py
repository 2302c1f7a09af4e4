"""A small replicated key-value store, led by whom the leader-elector sidecar names; ../README.md is about it."""
