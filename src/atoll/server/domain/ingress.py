"""Who may reach the programs of a sandbox, and how they are asked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.server.domain.errors import InvalidArgumentError

# The daemon's own, which has a token of its own and speaks plain HTTP.
DAEMON_PORT = 49983
# In a mask, stands for the port that is asked.
PORT_VARIABLE = "${PORT}"
_MOST_PORTS = 64
_MOST_MASK = 255
_MASK = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(:[0-9]{1,5})?")


@dataclass(frozen=True, kw_only=True)
class IngressPolicy:
    """
    Who may reach a sandbox's ports other than the daemon's. Set at the create, and never changed.

    Attributes:
        public: anybody who knows the host name; else whoever shows the traffic token.
        mask_host: what programs see as the requests' Host, with ``${PORT}`` for the port; empty: what the
            client sent.
        https_ports: where programs speak HTTPS, under certificates that nobody checks.
    """

    public: bool = True
    mask_host: str = ""
    https_ports: tuple[int, ...] = ()


def checked(policy: IngressPolicy) -> IngressPolicy:
    """
    Return a caller's policy as it is kept.

    Raises:
        InvalidArgumentError: the mask is no host, or a port is none that a program can have.
    """
    mask = policy.mask_host.replace(PORT_VARIABLE, "1")
    if mask and (len(policy.mask_host) > _MOST_MASK or not _MASK.fullmatch(mask)):
        raise InvalidArgumentError(f"invalid mask request host ({ascii(policy.mask_host[:64])[1:-1]})")
    if len(policy.https_ports) > _MOST_PORTS:
        raise InvalidArgumentError(f"httpsPorts has {len(policy.https_ports)} ports, at most {_MOST_PORTS}")
    for port in policy.https_ports:
        if not 1 <= port <= 65535 or port == DAEMON_PORT:
            raise InvalidArgumentError(f"invalid HTTPS port {port}")
    return IngressPolicy(
        public=policy.public, mask_host=policy.mask_host, https_ports=tuple(dict.fromkeys(policy.https_ports))
    )


def to_plain(policy: IngressPolicy) -> dict[str, Any]:
    """Return the policy as JSON has it."""
    return {
        "public": policy.public,
        "mask_host": policy.mask_host,
        "https_ports": list(policy.https_ports),
    }


def from_plain(content: Mapping[str, Any]) -> IngressPolicy:
    """
    Read what ``to_plain`` wrote.

    Raises:
        TypeError: it has another form.
    """
    public, mask, ports = (content.get(name) for name in ("public", "mask_host", "https_ports"))
    if not isinstance(public, bool) or not isinstance(mask, str) or not isinstance(ports, list):
        raise TypeError(f"not an ingress policy: {content!r:.100}")
    if content.keys() - {"public", "mask_host", "https_ports"} or any(type(one) is not int for one in ports):
        raise TypeError(f"not an ingress policy: {content!r:.100}")
    return IngressPolicy(public=public, mask_host=mask, https_ports=tuple(ports))
