"""Our own dialect: HTTP with JSON under /v1, described at /docs and /openapi.json."""
