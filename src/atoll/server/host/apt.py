"""
apt's view of this host: which Debian mirror it uses, and through which proxy.

Reads both forms of apt's sources (one line, and deb822) and changes nothing.
A derivative's own archive (Ubuntu's, say) and third parties' are not Debian's: then the answer is Debian's
public mirror with Debian's keyring.
"""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import structlog

log = structlog.get_logger(__name__)

DEBIAN = "http://deb.debian.org/debian"
DEBIAN_SECURITY = "http://deb.debian.org/debian-security"
DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_APT_CONFIG_TIMEOUT_S = 10.0
# Larger ones are no sources that a person wrote.
_MOST_BYTES = 1 << 20
_CODENAMES = "stretch|buster|bullseye|bookworm|trixie|forky|duke|sid"
_SUITE = re.compile(rf"(?:{_CODENAMES}|oldoldstable|oldstable|stable|testing|unstable)(?P<pocket>[-/].+)?")
_ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>.*)"
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One archive as apt's sources name it: binary packages only."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """
    Where Debian comes from.

    Attributes:
        main: the archive's address.
        security: the address of the security updates; empty when the host takes none.
        keyring: the file with the keys that sign both.
    """

    main: str = DEBIAN
    security: str = DEBIAN_SECURITY
    keyring: str = DEBIAN_KEYRING


def debian_mirror(root: Path = Path("/")) -> Mirror:
    """Return the mirror that this host takes Debian from, Debian's public one if it is not Debian."""
    return choose_mirror(list(host_sources(root)), root)


def host_sources(root: Path = Path("/")) -> Iterator[Source]:
    """List the host's archives in the order in which apt reads them."""
    directory = root / "etc/apt"
    for path in (directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))):
        text = _text(path)
        if path.suffix == ".list":
            yield from parse_one_line(text)
        elif path.suffix == ".sources":
            yield from parse_deb822(text)


def parse_one_line(text: str) -> Iterator[Source]:
    """Read sources.list(5)'s one-line form; what is no such line is skipped, as apt would report it."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None:
            continue
        options = dict(part.partition("=")[::2] for part in (match["options"] or "").split())
        yield Source(
            uri=match["uri"],
            suite=match["suite"],
            components=tuple(match["components"].split()),
            signed_by=options.get("signed-by", ""),
        )


def parse_deb822(text: str) -> Iterator[Source]:
    """Read sources.list(5)'s deb822 form: one source for each address and suite of each stanza."""
    for fields in _stanzas(text):
        if "deb" not in fields.get("types", "").split() or _is_no(fields.get("enabled", "yes")):
            continue
        signed_by = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(
                    uri=uri,
                    suite=suite,
                    components=tuple(fields.get("components", "").split()),
                    # A key may stand there itself; a file is named by one absolute path.
                    signed_by=signed_by if re.fullmatch(r"/\S+", signed_by) else "",
                )


def choose_mirror(sources: Iterable[Source], root: Path = Path("/")) -> Mirror:
    """Find Debian's own archive among a host's sources."""
    debian = [source for source in (_plain(source, root) for source in sources) if _is_debian(source)]
    updated = {source.uri for source in debian if _pocket(source) == "-updates"}
    for source in debian:
        ours = "debian-archive" in source.signed_by or not source.signed_by
        # Somebody else's key: a company's copy, then it has the updates too. A vendor's own packages do not.
        if _pocket(source) or not (ours or source.uri in updated):
            continue
        security = [other for other in debian if _pocket(other) in ("-security", "/updates")]
        return Mirror(
            main=source.uri,
            security=security[0].uri if security else "",
            keyring=source.signed_by or DEBIAN_KEYRING,
        )
    return Mirror()


async def proxy_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that name the host's proxies: the environment's, or else apt's own setting."""
    found = {
        key: value
        for key, value in environ.items()
        if key.lower() in ("http_proxy", "https_proxy", "no_proxy") and value
    }
    for kind in ("http", "https"):
        if not any(key.lower() == f"{kind}_proxy" for key in found):
            address = await asyncio.to_thread(_apt_config, f"Acquire::{kind}::Proxy")
            if address and address != "DIRECT":
                found[f"{kind}_proxy"] = address
    return found


def without_credentials(uri: str) -> str:
    """Return an address without the user name and the password in it."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _apt_config(name: str) -> str:
    argv = ["apt-config", "--format", "%v%n", "dump", name]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=_APT_CONFIG_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as exc:
        log.warning("apt's proxy setting cannot be read", error=str(exc))
        return ""
    return done.stdout.strip().partition("\n")[0]


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    key = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, key = {}, ""
        elif line[0] in " \t":
            if key:
                fields[key] = f"{fields[key]}\n{line.strip()}".strip()
        else:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()


def _is_no(value: str) -> bool:
    return value.strip().lower() in ("no", "false", "without", "off", "disable", "0")


def _plain(source: Source, root: Path) -> Source:
    """Replace a list of mirrors (as on Debian's cloud images) by its first entry; drop a last slash."""
    uri = source.uri
    if uri.startswith("mirror+file:"):
        lines = _text(root / uri.removeprefix("mirror+file:").lstrip("/")).split("\n")
        uri = next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), "")
    return Source(
        uri=uri.rstrip("/"),
        suite=source.suite.rstrip("/"),
        components=source.components,
        signed_by=source.signed_by,
    )


def _is_debian(source: Source) -> bool:
    parts = urlsplit(source.uri)
    folder = parts.path.rstrip("/").rpartition("/")[2]
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and "main" in source.components
        and _SUITE.fullmatch(source.suite) is not None
        and folder.startswith("debian")
    )


def _pocket(source: Source) -> str:
    match = _SUITE.fullmatch(source.suite)
    return (match and match["pocket"]) or ""


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""
