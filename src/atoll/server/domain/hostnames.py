"""Domains under which the API and sandboxes have names. Pure: nothing is looked up here."""

import re

from atoll.server.domain.errors import InvalidArgumentError

_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
# A name has 253 characters at most, and the longest of ours before a domain takes 5 + 1 + 21 + 1.
MOST_DOMAIN_LENGTH = 253 - 28


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
