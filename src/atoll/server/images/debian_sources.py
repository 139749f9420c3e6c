"""
Where Debian's packages come from: the host's own mirror, when the host is a Debian.

Reads both forms of apt's sources, deb822 and one-line.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MIRROR = "http://deb.debian.org/debian"
DEFAULT_SECURITY = "http://deb.debian.org/debian-security"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_URI = re.compile(r"https?://[^\s\[\]]+")


@dataclass(frozen=True, kw_only=True)
class Mirrors:
    """
    Two archives.

    Attributes:
        main: of the suite and its updates.
        security: of its security updates; None when the host's mirror has none that is known.
    """

    main: str
    security: str | None

    def sources(self, suite: str) -> Sequence[str]:
        """Write apt's lines for a suite, in the one-line form."""
        lines = [f"deb {self.main} {suite} main", f"deb {self.main} {suite}-updates main"]
        if self.security:
            lines.append(f"deb {self.security} {suite}-security main")
        return lines


def host_mirrors(apt: Path = Path("/etc/apt"), os_release: Path = Path("/etc/os-release")) -> Mirrors:
    """Find the mirrors that the host uses; Debian's own where the host is something else, or says nothing."""
    release = dict(
        line.split("=", 1) for line in _lines(os_release) if "=" in line and not line.startswith("#")
    )
    if release.get("ID", "").strip('"') != "debian":
        return Mirrors(main=DEFAULT_MIRROR, security=DEFAULT_SECURITY)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    main = security = None
    for uri, suites in _entries(apt):
        if suite in suites:
            main = main or uri
        if f"{suite}-security" in suites:
            security = security or uri
    if main is None:
        return Mirrors(main=DEFAULT_MIRROR, security=DEFAULT_SECURITY)
    return Mirrors(main=main.rstrip("/"), security=security.rstrip("/") if security else None)


def _entries(apt: Path) -> Iterator[tuple[str, list[str]]]:
    directory = apt / "sources.list.d"
    for path in sorted(directory.glob("*.sources")):
        yield from _deb822(path)
    for path in [apt / "sources.list", *sorted(directory.glob("*.list"))]:
        yield from _one_line(path)


def _deb822(path: Path) -> Iterator[tuple[str, list[str]]]:
    text = "\n".join(line for line in _lines(path) if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes").strip() != "no":
            for uri in _URI.findall(fields.get("URIs", "")):
                yield uri, fields.get("Suites", "").split()


def _one_line(path: Path) -> Iterator[tuple[str, list[str]]]:
    for line in _lines(path):
        match = re.match(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", line)
        if match and _URI.fullmatch(match[1]):
            yield match[1], [match[2]]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
