"""Opens a home with its settings; the command line does that without loading the server, which it starts."""

import dataclasses
import os
from pathlib import Path

from atoll.server.settings import Settings
from atoll.server.settings.home import Home, open_home
from atoll.server.settings.loading import load


def open_with_settings(path: Path, listen: str | None) -> tuple[Home, Settings]:
    """Open a home with its settings; what the command line says wins."""
    settings = load(path / "settings.toml", os.environ)
    if listen is not None:
        settings = dataclasses.replace(settings, server=dataclasses.replace(settings.server, listen=listen))
    cache = Path(settings.server.cache_dir) if settings.server.cache_dir else None
    return open_home(path, cache=cache), settings
