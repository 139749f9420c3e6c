"""Domains and addresses under which clients find a server. Pure: nothing is looked up here."""

import re

from atoll.server.domain.errors import InvalidArgumentError

_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
# A name has 253 characters at most, and the longest of ours before a domain takes 5 + 1 + 21 + 1.
MOST_DOMAIN_LENGTH = 253 - 28
# Each of them is a name of each sandbox, in a file that every look-up reads.
MOST_PORTS = 64


def parse_domain(text: str) -> str:
    """
    Read a domain, in lower case.

    Raises:
        InvalidArgumentError: it is no domain name of two labels or more (clients refuse ``*.test``).
    """
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if (
        len(labels) < 2
        or len(name) > MOST_DOMAIN_LENGTH
        or not all(_LABEL.fullmatch(label) for label in labels)
        or labels[-1].isdigit()
    ):
        raise InvalidArgumentError(
            f"{text!r} is no domain for sandboxes",
            resolution="Two labels or more, of letters, digits and dashes: sbx.test, say.",
        )
    return name


def parse_ports(text: str) -> tuple[int, ...]:
    """
    Read ports that are separated by commas; the order stays, and what is there twice is once.

    Raises:
        InvalidArgumentError: one is none, or there are more than 64.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    fits = all(word.isascii() and word.isdigit() and 0 < int(word[:6]) < 65536 for word in words)
    if not fits or len(words) > MOST_PORTS:
        raise InvalidArgumentError(
            f"{text[:64]!r} are no ports", resolution=f"3000,8080, say; {MOST_PORTS} at the most."
        )
    return tuple(dict.fromkeys(int(word) for word in words))


def parse_listen(text: str) -> tuple[str, int]:
    """
    Read an address to listen on, ``host:port``, as host (empty: all of this machine's) and port.

    Raises:
        InvalidArgumentError: it has another form, or a port that there is not.
    """
    host, colon, port = text.rpartition(":")
    plain = host.isprintable() and not set(host) & set("/ @")
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        not colon
        or not plain
        or (":" in host and not bracketed)
        or not (port.isascii() and port.isdigit())
        or not 0 < int(port[:6]) < 65536
    ):
        raise InvalidArgumentError(
            f"{text[:64]!r} is no address to listen on", resolution="HOST:PORT, such as 127.0.0.1:7777."
        )
    return host, int(port)
