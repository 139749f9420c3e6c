"""
Settings of the host that sandboxes need, and their way back.

The first home that needs a change writes down what was there, then changes it; the last one that lets go
puts it back, unless somebody else has changed it meanwhile. All homes of a machine share one file in /run,
which is gone after a restart of the machine, as the changes are.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from atoll.server.domain.errors import InternalError, UnavailableError
from atoll.server.host import locked_file, sysctl
from atoll.server.network.names import Names
from atoll.server.network.uplink import HostNetwork

FILE_NAME = "host-settings.json"
LOCK_NAME = "host-settings.lock"

# gVisor's sentry maps a guest's memory piece by piece; with Linux's 65,530 a Python that fills 512 MB of
# shared memory dies of SIGSEGV.
MAX_MAP_COUNT = 1048576


@dataclass(frozen=True, kw_only=True)
class Setting:
    """
    What one setting should be.

    Attributes:
        name: its path below /proc/sys.
        value: what we set.
        at_least: whether a higher number will do as well.
        only_if: change it only where it has this value.
        optional: leave it alone where the kernel does not have it.
    """

    name: str
    value: str
    at_least: bool = False
    only_if: str | None = None
    optional: bool = False

    def suits(self, current: str) -> bool:
        """Say whether nothing needs to be done."""
        if self.only_if is not None and current not in (self.only_if, self.value):
            return True
        if self.at_least and current.isdigit():
            return int(current) >= int(self.value)
        return current == self.value


@dataclass(frozen=True, kw_only=True)
class Change:
    """
    What was done to a setting, for the operator to read.

    Attributes:
        name: the setting's, as sysctl writes it.
        before: the value that was there.
        after: the value that is there now.
        note: why it was left alone, if it was; else empty.
    """

    name: str
    before: str
    after: str
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"{self.name} = {self.after} ({self.note})"
        return f"{self.name} = {self.after} (was {self.before})"


@dataclass(kw_only=True)
class _Record:
    original: str
    ours: str
    holders: set[str]


def needed(network: HostNetwork) -> tuple[Setting, ...]:
    """List what sandboxes need on a host with this network, in the order in which to set it."""
    settings = [
        Setting(name="vm/max_map_count", value=str(MAX_MAP_COUNT), at_least=True),
        Setting(name="net/ipv4/ip_forward", value="1"),
    ]
    if network.ipv6:
        # A host that forwards does not listen to routers any more, and forgets the routes that it has from
        # them, unless told to listen all the same: before it starts to forward.
        settings += [
            Setting(name=f"net/ipv6/conf/{uplink}/accept_ra", value="2", only_if="1", optional=True)
            for uplink in network.uplinks6
        ]
        settings.append(Setting(name="net/ipv6/conf/all/forwarding", value="1", optional=True))
    return tuple(settings)


def holders(run_dir: Path) -> set[str]:
    """
    List the ids of the homes that need settings as they are.

    Raises:
        InternalError: the file where they are written down is damaged.
    """
    file = run_dir / FILE_NAME
    with locked_file.locked(run_dir / LOCK_NAME):
        return {holder for record in _read(file).values() for holder in record.holders}


class HostSettings:
    """The settings, for one home. Its methods block for milliseconds."""

    def __init__(self, home_id: str, *, run_dir: Path, root: Path = sysctl.PROC_SYS) -> None:
        """
        Args:
            home_id: who holds.
            run_dir: the directory that all homes of this machine share.
            root: where the settings are.
        """
        self._home_id = Names(home_id).home_id
        self._file = run_dir / FILE_NAME
        self._lock = run_dir / LOCK_NAME
        self._root = root

    def hold(self, settings: Iterable[Setting]) -> list[Change]:
        """
        Have the settings as needed until ``release``; returns what had to be changed.

        Raises:
            UnavailableError: the kernel refused one; those before it hold.
        """
        with self._locked():
            records = _read(self._file)
            return [change for setting in settings if (change := self._hold(setting, records))]

    def release(self) -> list[Change]:
        """
        Need the settings no longer; returns what was put back, and what was left alone.

        Raises:
            UnavailableError: the kernel refused to put one back; calling again may help.
        """
        changes: list[Change] = []
        with self._locked():
            records = _read(self._file)
            # The other way round: forwarding ends before routers are heard no more.
            for name, record in reversed(list(records.items())):
                record.holders.discard(self._home_id)
                if not record.holders:
                    changes += self._put_back(name, record)
                    del records[name]
                self._write(records)
            if not records:
                self._file.unlink(missing_ok=True)
        return changes

    def _hold(self, setting: Setting, records: dict[str, _Record]) -> Change | None:
        try:
            current = sysctl.read(setting.name, self._root)
        except sysctl.SysctlError as error:
            if setting.optional:
                return None
            raise _unavailable(error) from error
        record = records.get(setting.name)
        if record is None:
            if setting.suits(current):
                return None
            record = records[setting.name] = _Record(original=current, ours=setting.value, holders=set())
        record.holders.add(self._home_id)
        # Written down before it is changed: whatever happens in between, the original is known.
        self._write(records)
        if setting.suits(current):
            return None
        self._set(setting.name, setting.value)
        return Change(name=_dotted(setting.name), before=current, after=setting.value)

    def _put_back(self, name: str, record: _Record) -> list[Change]:
        try:
            current = sysctl.read(name, self._root)
        except sysctl.SysctlError:
            # Its interface is gone, and the setting with it.
            return []
        if current == record.original:
            return []
        if current != record.ours:
            note = f"left alone: somebody changed it since; it was {record.original} before Atoll"
            return [Change(name=_dotted(name), before=current, after=current, note=note)]
        self._set(name, record.original)
        return [Change(name=_dotted(name), before=current, after=record.original)]

    def _set(self, name: str, value: str) -> None:
        try:
            sysctl.write(name, value, self._root)
        except sysctl.SysctlError as error:
            raise _unavailable(error) from error

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked_file.locked(self._lock)

    def _write(self, records: dict[str, _Record]) -> None:
        locked_file.write_json(
            self._file,
            {
                name: {"original": r.original, "ours": r.ours, "holders": sorted(r.holders)}
                for name, r in records.items()
            },
        )


def _read(file: Path) -> dict[str, _Record]:
    try:
        content = locked_file.read_json(file)
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise TypeError("not an object")
        return {
            str(name): _Record(
                original=str(entry["original"]), ours=str(entry["ours"]), holders=set(entry["holders"])
            )
            for name, entry in content.items()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise InternalError(
            f"{file} is damaged",
            details=repr(error),
            resolution="it holds the original values of host settings: repair or remove it by hand",
        ) from error


def _dotted(name: str) -> str:
    return name.replace(".", "\0").replace("/", ".").replace("\0", "/")


def _unavailable(error: sysctl.SysctlError) -> UnavailableError:
    return UnavailableError(
        "a host setting that sandboxes need cannot be changed",
        details=str(error),
        resolution="run as root, outside of a container; or set it by hand with sysctl",
    )
