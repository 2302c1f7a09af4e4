"""The laboratory: an embedded Kubernetes API server and what is built on it, for demos, tests and simulation.

Nothing here runs in a pod, and the sidecar imports nothing from here. The embedded API server keeps everything in
memory, trusts whoever asks unless it is given users, and knows six resources; it is no substitute for a cluster.
"""
