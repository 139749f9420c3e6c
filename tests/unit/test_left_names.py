"""What `atoll dns install` changed is put back for homes, too, whose account of it was deleted with them."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.host import hosts_file
from atoll.server.main import hosts_names, left_names, resolving
from atoll.server.settings.home import Home, open_home

RESOLVER = b"# mine\nnameserver 192.0.2.7\n"
HOSTS = b"127.0.0.1 localhost\n"


@dataclass
class Files:
    resolver: Path
    hosts: Path

    def find(self) -> dict[str, list[str]]:
        # Links of homes that really are on this machine stay out.
        found = left_names.find(resolver=self.resolver, hosts=self.hosts)
        files = {str(self.resolver), str(self.hosts)}
        named = {home_id: [one for one in places if one in files] for home_id, places in found.items()}
        return {home_id: places for home_id, places in named.items() if places}

    def take_out(self, home: Home) -> list[str]:
        return list(left_names.take_out(home.id, resolver=self.resolver, hosts=self.hosts))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(hosts_names, "LOCK", tmp_path / "hosts.lock")
    (tmp_path / "resolv.conf").write_bytes(RESOLVER)
    (tmp_path / "hosts").write_bytes(HOSTS)
    return Files(resolver=tmp_path / "resolv.conf", hosts=tmp_path / "hosts")


@pytest.fixture
def homes() -> Iterator[tuple[Home, Home]]:
    with tempfile.TemporaryDirectory(prefix="atoll-test-") as directory:
        yield open_home(Path(directory) / "one"), open_home(Path(directory) / "two")


def install(home: Home, files: Files, address: str = "127.83.1.2") -> None:
    """As `atoll dns install` does, and as a server with --hosts, and have the home's account of it gone."""
    resolving.install(home, address=address, domain="sbx.test", path=files.resolver)
    mark = hosts_names.mark(home.id)
    content = hosts_file.with_block(files.hosts.read_bytes(), mark, "sbx.test", ["127.0.0.1 api.sbx.test"])
    files.hosts.write_bytes(content)
    (home.path / "dns.json").unlink(missing_ok=True)


def test_all_of_a_deleted_home_is_found_and_goes_and_nothing_else(
    files: Files, homes: tuple[Home, Home]
) -> None:
    gone, other = homes
    places = [str(files.resolver), str(files.hosts)]
    assert files.find() == {}
    install(other, files, "127.83.1.3")
    kept = files.resolver.read_bytes(), files.hosts.read_bytes()
    install(gone, files)

    found = files.find()
    taken = files.take_out(gone)

    assert found == {gone.id: places, other.id: places}
    assert taken == places
    assert (files.resolver.read_bytes(), files.hosts.read_bytes()) == kept
    assert files.find() == {other.id: places}
    assert files.take_out(gone) == []
    files.take_out(other)
    assert (files.resolver.read_bytes(), files.hosts.read_bytes()) == (RESOLVER, HOSTS)


def test_files_that_others_write_are_left_alone(files: Files, homes: tuple[Home, Home]) -> None:
    gone, _ = homes
    install(gone, files)
    elsewhere = files.resolver.rename(files.resolver.with_name("elsewhere"))
    files.resolver.symlink_to(elsewhere)
    files.hosts.unlink()

    assert files.find() == {}
    assert files.take_out(gone) == []


def test_a_file_that_cannot_be_changed_is_an_error_that_names_it(
    files: Files, homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, _ = homes
    install(gone, files)

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.pwrite", refuse)

    with pytest.raises(FailedPreconditionError, match=f"Lines of home {gone.id} stay in .*is immutable"):
        files.take_out(gone)
