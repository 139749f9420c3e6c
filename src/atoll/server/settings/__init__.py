"""
Every setting of a server: groups of frozen dataclasses, each field with its unit, default and reason.

Values come from the dataclass, then from ``<home>/settings.toml``, then from the environment.
They are read here and in main only, and passed down as plain values.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from atoll.server.api.limits import ApiLimits
from atoll.server.control.limits import ControlLimits
from atoll.server.control.owned.volumes import VolumeLimits
from atoll.server.control.storage_limits import StorageLimits
from atoll.server.control.warm.pool import PoolLimits
from atoll.server.control.watching.events import EventLimits
from atoll.server.control.watching.logbook import LogLimits
from atoll.server.control.watching.observing import MetricsLimits
from atoll.server.control.watching.webhooks import WebhookLimits
from atoll.server.domain.identity import IdentityLimits
from atoll.server.edge.process import EdgeLimits
from atoll.server.guests.client import GuestLimits
from atoll.server.network.ruleset import MOST_CONNECTIONS
from atoll.server.network.slots import READY
from atoll.server.runtimes.gvisor.options import GVisorOptions

DEFAULT_HOME = Path("/var/lib/atoll")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """
    The server itself.

    Attributes:
        listen: where clients reach API and sandboxes, host:port. Loopback by default: a server that
            runs strangers' code opens to a network only when its operator says so.
        domain: what follows ``<port>-<sandbox id>.`` in the host names of sandboxes; empty: "localhost:" and
            the port of ``listen``, which every resolver takes to this machine. With ``tls.listen`` it is a
            domain name, to which the port of that is added.
        cache_dir: a directory with ``templates/`` and ``runsc/`` to use instead of the home's own, so that
            several homes share what takes minutes to make; empty: the home's own.
        log_level: what the log takes: debug, info, warning or error.
        log_bytes: length of each of the logs in ``logs/``: server.log, server.err, edge.log. A longer one is
            renamed, with ".1" behind its name. A busy server logs some hundred bytes for each sandbox: five
            files of 20 MiB hold some hundred thousand of them. At least 64 KiB.
        log_files: older files that are kept of each log, at least one: 300 MB of all three at the most.
        shutdown_timeout: how long requests under way may take when the server stops. With the time for
            creates and kills it stays below the 90 s that systemd gives.
    """

    listen: str = "127.0.0.1:7777"
    domain: str = ""
    cache_dir: str = ""
    log_level: str = "info"
    log_bytes: int = 20 * 1024 * 1024
    log_files: int = 4
    shutdown_timeout: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, kw_only=True)
class TLSSettings:
    """
    HTTPS beside plain HTTP, under ``server.domain``.

    Attributes:
        listen: where clients reach ``https://api.<domain>`` and ``https://<port>-<sandbox id>.<domain>``,
            host:port; empty: nowhere.
        cert: file with a certificate for ``*.<domain>``, and what signed it behind it; empty: one that is
            made and renewed here, by an authority of the home's own that clients have to be told of
            (``atoll env`` does). Replaced, it is used from the next connection on.
        key: file with its key.
        names_listen: loopback address where names of the domain are answered for this machine, and all others
            as this machine's other name servers do, host:port; "off": nowhere. Empty: port 53 of an address
            of the home's own, so that homes do not meet. Programs use it after ``atoll dns install``.
        names_addresses: addresses of these names, separated by commas; empty: the address of ``listen``, or
            loopback when that is all addresses.
        hosts_ports: ports, separated by commas, whose names `atoll dns install --hosts` keeps in /etc/hosts
            for each live sandbox: that file knows no patterns. Those of the daemon, of the code interpreter,
            and on which most servers that people start listen; 64 at the most.
        hosts_names: lines of names there at the most; sandboxes that are older than those that fill them are
            left out. Every look-up on this machine reads them all, 4,096 in half a millisecond.
        hosts_pause: least time between two changes of that file; what comes meanwhile is written together.
        dns_listen: address where everybody may ask for names of the domain, and for no others, host:port;
            empty: nowhere. For a domain that is delegated to this machine.
        acme_email: mail address of whoever answers for the domain; with it, an authority on the network signs
            the certificate (ACME), and its terms are agreed to. Empty: none does.
        acme_directory: address of that authority.
        acme_ca_bundle: file with authorities, in PEM form, that its own certificate may be signed by, beside
            those that this host trusts; empty: none. For an authority of your own.
    """

    listen: str = ""
    cert: str = ""
    key: str = ""
    names_listen: str = ""
    names_addresses: str = ""
    hosts_ports: str = "49983,49999,3000,5000,5173,8000,8080,8888"
    hosts_names: int = 4096
    hosts_pause: timedelta = timedelta(seconds=0.05)
    dns_listen: str = ""
    acme_email: str = ""
    acme_directory: str = "https://acme-v02.api.letsencrypt.org/directory"
    acme_ca_bundle: str = ""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """
    Addresses and slots of sandboxes.

    Attributes:
        ready_slots: network namespaces kept ready, so that a create does not wait for one; each costs
            12-37 ms to make and little to keep.
        most_connections: connections of one sandbox at once; all sandboxes share the host's table.
        proxy_networks: networks, separated by commas, where proxies of sandboxes may be although no sandbox
            reaches them: 10.0.0.0/24, say. Empty: none; who names a proxy could else have Atoll knock at
            doors that are closed to sandboxes.
        server_roots: file with authorities, in PEM form, that may have signed servers to which Atoll adds
            headers for sandboxes, beside those that this host trusts; empty: none.
    """

    ready_slots: int = READY
    most_connections: int = MOST_CONNECTIONS
    proxy_networks: str = ""
    server_roots: str = ""


@dataclass(frozen=True, kw_only=True)
class TemplateSettings:
    """
    Templates that the server builds.

    Attributes:
        built_at_start: recipes, separated by commas, that are built before the server starts, unless they
            are built already; the first time takes minutes.
        guest_ca: whether what this host trusts beyond the usual authorities is trusted inside sandboxes too,
            so that pip, npm and curl work behind a company's proxy.
    """

    built_at_start: str = "base"
    guest_ca: bool = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All groups; a group's name begins the names of its settings."""

    server: ServerSettings = field(default_factory=ServerSettings)
    tls: TLSSettings = field(default_factory=TLSSettings)
    sandboxes: ControlLimits = field(default_factory=ControlLimits)
    pool: PoolLimits = field(default_factory=PoolLimits)
    volumes: VolumeLimits = field(default_factory=VolumeLimits)
    storage: StorageLimits = field(default_factory=StorageLimits)
    gvisor: GVisorOptions = field(default_factory=GVisorOptions)
    guests: GuestLimits = field(default_factory=GuestLimits)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    templates: TemplateSettings = field(default_factory=TemplateSettings)
    metrics: MetricsLimits = field(default_factory=MetricsLimits)
    logs: LogLimits = field(default_factory=LogLimits)
    events: EventLimits = field(default_factory=EventLimits)
    webhooks: WebhookLimits = field(default_factory=WebhookLimits)
    identity: IdentityLimits = field(default_factory=IdentityLimits)
    edge: EdgeLimits = field(default_factory=EdgeLimits)
    api: ApiLimits = field(default_factory=ApiLimits)
