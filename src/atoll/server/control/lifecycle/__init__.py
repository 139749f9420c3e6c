"""The verbs of a sandbox's life: create, pause, resume, snapshot and fork, its deadline and its network."""
