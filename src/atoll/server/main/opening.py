"""Opens a home with its settings; the command line does that without loading the server, which it starts."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from atoll.server.settings import Settings
from atoll.server.settings.home import Home, find_home, open_home
from atoll.server.settings.loading import load


def open_with_settings(path: Path, listen: str | None) -> tuple[Home, Settings]:
    """Open a home with its settings; what the command line says wins."""
    settings = load(path / "settings.toml", os.environ)
    if listen is not None:
        settings = dataclasses.replace(settings, server=dataclasses.replace(settings.server, listen=listen))
    cache = Path(settings.server.cache_dir) if settings.server.cache_dir else None
    return open_home(path, cache=cache), settings


def find_with_settings(path: Path, environment: Mapping[str, str]) -> tuple[Home, Settings] | None:
    """Find a home with its settings, and make none; None: there is none."""
    if find_home(path) is None:
        return None
    settings = load(path / "settings.toml", environment)
    cache = Path(settings.server.cache_dir) if settings.server.cache_dir else None
    found = find_home(path, cache=cache)
    return (found, settings) if found is not None else None
