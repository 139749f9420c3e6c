"""What of a real machine comes back from a checkpoint, and what never shows that it was away."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyqwest import Client, HTTPTransport
from support.gvisor import MIB, SMALL, Host

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.domain.ids import TeamId, VolumeId, new_volume_id
from atoll.server.domain.machine import Machine
from atoll.server.domain.volume import Volume, VolumeMount
from atoll.server.runtimes.leaving import Leaving

MEMORY, FILES = CheckpointKind.MEMORY, CheckpointKind.FILES
PORT = 8000

# Says on each connection what of its state is still right; on port 8001 it counts and sums up what it gets.
PROGRAM = r"""
import hashlib, os, socket, subprocess, tempfile, threading, time
named = open("/root/named", "w+"); named.write("named"); named.flush()
unlinked = tempfile.TemporaryFile(dir="/root"); unlinked.write(b"unlinked"); unlinked.flush()
open("/dev/shm/text", "w").write("shm"); open("/tmp/text", "w").write("tmp")
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
server = socket.create_server(("0.0.0.0", 8000))
inner = socket.create_connection(("127.0.0.1", 8000)); accepted, _ = server.accept()
pair = socket.socketpair()
blob = os.urandom(4 << 20); digest = hashlib.sha256(blob).hexdigest()
ticks = 0
def tick():
    global ticks
    while True:
        time.sleep(0.01); ticks += 1
threading.Thread(target=tick, daemon=True).start()
def sums():
    server = socket.create_server(("0.0.0.0", 8001))
    while True:
        connection, _ = server.accept()
        threading.Thread(target=add, args=(connection,), daemon=True).start()
def add(connection):
    digest, count = hashlib.sha256(), 0
    try:
        while data := connection.recv(65536):
            digest.update(data); count += len(data)
            if data.endswith(b"."):
                connection.sendall(f"{count} {digest.hexdigest()}\n".encode())
        try:
            connection.sendall(b"more"); said = "not over"
        except OSError as error:
            said = os.strerror(error.errno)
        open("/root/over", "a").write("end, then " + said + "\n")
    except OSError as error:
        open("/root/over", "a").write(os.strerror(error.errno) + "\n")
threading.Thread(target=sums, daemon=True).start()
def state():
    unlinked.seek(0); named.seek(0)
    child.stdin.write(b"pipe"); inner.sendall(b"loopback"); pair[0].sendall(b"pair")
    before = ticks
    time.sleep(0.1)
    return [named.read(), unlinked.read().decode(), open("/dev/shm/text").read(), open("/tmp/text").read(),
            os.read(child.stdout.fileno(), 4).decode(), accepted.recv(8).decode(), pair[1].recv(4).decode(),
            str(hashlib.sha256(blob).hexdigest() == digest), str(ticks > before), str(os.getpid())]
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(" ".join(state()).encode()); connection.close()
"""
RIGHT = "named unlinked shm tmp pipe loopback pair True True "


async def running_program(host: Host, machine: Machine) -> None:
    script = f"cat > /root/program.py <<'END'\n{PROGRAM}\nEND\n"
    script += (
        "python3 /root/program.py > /root/said 2>&1 & until grep -q ready /root/said; do sleep 0.05; done"
    )
    assert (await host.command(machine, "sh", "-c", script)).exit_code == 0


async def state(machine: Machine) -> str:
    reader, writer = await asyncio.open_connection(machine.address, PORT)
    async with asyncio.timeout(10):
        said = (await reader.read()).decode()
    writer.close()
    return said


async def come_back(host: Host, machine: Machine, origin: Path) -> None:
    spec = replace(host.spec(), sandbox_id=machine.sandbox_id)
    assert await host.runtime.restore(spec, origin) == machine


async def save(host: Host, machine: Machine, into: Path, *, leave_running: bool = False) -> None:
    await host.runtime.checkpoint(machine.sandbox_id, into, kind=MEMORY, leave_running=leave_running)


async def test_programs_files_and_sockets_go_on_and_the_clock_is_right(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    await running_program(host, machine)
    boot_id = await host.command(machine, "cat", "/proc/sys/kernel/random/boot_id")
    before = await state(machine)
    assert before.startswith(RIGHT)

    for number in range(3):
        await save(host, machine, tmp_path / str(number))
        await come_back(host, machine, tmp_path / str(number))

        assert await state(machine) == before
    assert await host.command(machine, "cat", "/proc/sys/kernel/random/boot_id") == boot_id
    clock = float((await host.python(machine, "import time; print(time.time())")).stdout)
    assert abs(clock - time.time()) < 2


async def test_a_connection_loses_and_repeats_nothing_while_a_machine_is_away(
    host: Host, tmp_path: Path
) -> None:
    machine = await host.start()
    await running_program(host, machine)
    reader, writer = await asyncio.open_connection(machine.address, 8001)
    sent = 0
    stop = asyncio.Event()

    async def stream() -> None:
        nonlocal sent
        while not stop.is_set():
            writer.write(b"%08d" % (sent // 8) * 512)
            sent += 8 * 512
            await writer.drain()
            await asyncio.sleep(0.0005)

    streaming = asyncio.create_task(stream())
    for number in range(4):
        await asyncio.sleep(0.1)
        await save(host, machine, tmp_path / str(number))
        # The other end sends again what nobody has acknowledged, to nobody.
        await asyncio.sleep(0.3)
        await host.runtime.restore(
            replace(host.spec(), sandbox_id=machine.sandbox_id), tmp_path / str(number)
        )
    stop.set()
    async with asyncio.timeout(30):
        await streaming
        writer.write(b".")
        sent += 1
        while True:
            count = int((await reader.readline()).split()[0])
            if count >= sent:
                break
    writer.close()
    assert count == sent


async def test_nobody_answers_for_a_machine_that_comes_back(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    hold = (
        "import socket\nserver = socket.create_server(('', 8002), backlog=512)\nheld = []\n"
        "while True: held.append(server.accept())"
    )
    script = f'python3 -c "{hold}" & until grep -q :1F42 /proc/net/tcp; do sleep 0.05; done'
    assert (await host.command(machine, "sh", "-c", script)).exit_code == 0
    peers = [socket.create_connection((machine.address, 8002), timeout=5) for _ in range(300)]

    for number in range(3):
        await save(host, machine, tmp_path / str(number))
        for peer in peers:
            # Sent again and again, so that one arrives at every moment of the restore.
            peer.send(b"x")
            await asyncio.sleep(0.001)
        await come_back(host, machine, tmp_path / str(number))
        await asyncio.sleep(0.5)

        assert sum(was_reset(peer) for peer in peers) == 0
    for peer in peers:
        peer.close()


def was_reset(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        peer.settimeout(5)


async def test_connections_end_in_a_fork_and_go_on_in_the_original(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    await running_program(host, machine)
    reader, writer = await asyncio.open_connection(machine.address, 8001)
    writer.write(b"first.")
    assert (await reader.readline()).startswith(b"6 ")

    await save(host, machine, tmp_path / "one", leave_running=True)
    fork = await host.runtime.restore(host.spec(), tmp_path / "one")
    writer.write(b"second.")

    assert (await reader.readline()).startswith(b"13 ")
    assert (await state(fork)).startswith(RIGHT)
    assert (await state(machine)).startswith(RIGHT)
    script = "until test -s /root/over; do sleep 0.05; done; cat /root/over"
    over = await host.command(fork, "sh", "-c", script, timeout_s=10)
    assert over.stdout == "end, then Broken pipe\n"
    writer.close()


async def test_forks_get_random_bytes_of_their_own(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    await save(host, machine, tmp_path / "one", leave_running=True)
    forks = [await host.runtime.restore(host.spec(), tmp_path / "one") for _ in range(2)]

    code = "import os, uuid; print(os.getrandom(16).hex(), os.urandom(16).hex(), uuid.uuid4())"
    said = [(await host.python(one, code)).stdout.split() for one in (machine, *forks)]

    assert len({value for values in said for value in values}) == 9


async def test_a_new_boot_over_files_has_all_that_was_on_the_disk(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    script = (
        "mkdir -p /root/deep/er && echo text > /root/deep/er/file && chmod 4755 /root/deep/er/file; "
        "rm /etc/debian_version; ln -s deep /root/link; mkfifo /root/pipe; chown 1000:1000 /root/link -h; "
        "echo tmp > /tmp/text; "
        "dd if=/dev/urandom of=/root/large bs=1M count=40 status=none; sha256sum /root/large; "
        "cat /proc/sys/kernel/random/boot_id"
    )
    look = (
        "stat -c '%n %F %a %u' /root/deep/er/file /root/link /root/pipe; cat /tmp/text; "
        "ls /etc/passwd /etc/debian_version; "
        "sha256sum /root/large; cat /proc/sys/kernel/random/boot_id"
    )
    made = (await host.command(machine, "sh", "-c", script)).stdout.splitlines()
    before = (await host.command(machine, "sh", "-c", look)).stdout.splitlines()

    await host.runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=FILES, leave_running=False)
    await come_back(host, machine, tmp_path / "one")
    await host.configure(machine)
    async with HTTPTransport() as transport:
        # A guest that boots has ended the connections of before.
        host.http = Client(transport)
        after = (await host.command(machine, "sh", "-c", look)).stdout.splitlines()

    assert after[:-1] == before[:-1]
    assert after[-2] == made[0]
    assert after[-1] != made[1]


async def test_another_memory_size_shows_after_a_restore(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    await save(host, machine, tmp_path / "one", leave_running=True)
    larger = replace(SMALL, memory_bytes=512 * MIB)

    fork = await host.runtime.restore(host.spec(larger), tmp_path / "one")

    total = (await host.command(fork, "grep", "MemTotal", "/proc/meminfo")).stdout.split()
    assert int(total[1]) * 1024 == larger.memory_bytes
    assert host.record(fork.sandbox_id).memory_bytes == larger.memory_bytes


@pytest.fixture
async def volume(host: Host) -> AsyncIterator[VolumeId]:
    made = Volume(
        id=new_volume_id(),
        team_id=TeamId("test"),
        name="shared",
        size_bytes=64 * MIB,
        created_at=datetime.now(UTC),
    )
    await host.volumes.make(made)
    yield made.id
    for sandbox_id in await host.runtime.remains():
        await host.runtime.destroy(sandbox_id)
    await host.volumes.let_go()


@pytest.mark.parametrize("adopted", [False, True])
async def test_what_it_writes_on_volumes_is_never_ahead_of_its_memory(
    host: Host, volume: VolumeId, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adopted: bool
) -> None:
    mounts = (VolumeMount(volume_id=volume, name="shared", path="/mnt/shared"),)
    spec = replace(host.spec(), volumes=mounts)
    machine = await host.runtime.start(spec)
    await host.configure(machine, volumes=mounts)
    code = (
        "import os\n"
        "fd = os.open('/mnt/shared/log', os.O_CREAT | os.O_RDWR | os.O_APPEND)\n"
        "n = 0\n"
        "while True:\n"
        "    os.write(fd, b'%d\\n' % n); n += 1\n"
    )
    start = (
        f"cat > /root/w.py <<'END'\n{code}END\npython3 /root/w.py & until test -s /mnt/shared/log; do :; done"
    )
    await host.command(machine, "sh", "-c", start)

    if adopted:
        # A killed server removes nothing any more: here it would also remove what the next one restores.
        monkeypatch.setattr(Leaving, "begin", lambda *_: None)
    await save(host, machine, tmp_path / "one")
    if adopted:
        monkeypatch.undo()
        host.runtime = host.new_runtime()
        await host.runtime.open()
    lines = (await host.volumes.directory(volume) / "log").read_bytes()
    await asyncio.sleep(0.05)
    assert (await host.volumes.directory(volume) / "log").read_bytes() == lines
    await host.runtime.restore(spec, tmp_path / "one")
    await host.command(machine, "sleep", "0.1")
    await host.runtime.destroy(machine.sandbox_id)

    numbers = [int(n) for n in (await host.volumes.directory(volume) / "log").read_text().split()]
    assert len(numbers) > len(lines.splitlines())
    assert numbers == list(range(len(numbers)))


async def test_a_machine_gets_volumes_while_it_runs_and_others_at_their_places_when_restored(
    host: Host, volume: VolumeId, tmp_path: Path
) -> None:
    """What a claim from the pool does, and a fork whose volume is another one."""
    machine = await host.start()
    mounts = (VolumeMount(volume_id=volume, name="shared", path="/mnt/shared"),)

    await host.runtime.attach(machine.sandbox_id, mounts)
    await host.runtime.attach(machine.sandbox_id, mounts)
    await host.configure(machine, volumes=mounts, generation=2)
    write = "echo one > /mnt/shared/file; exec 3<> /mnt/shared/file; findmnt -n /mnt/shared || mount"
    assert "/mnt/shared" in (await host.command(machine, "sh", "-c", write)).stdout
    assert (await host.volumes.directory(volume) / "file").read_text() == "one\n"
    beside = "touch /.atoll/volumes/x; mount -o remount,rw /.atoll/volumes; touch /.atoll/volumes/x; id -u"
    tried = await host.command(machine, "sh", "-c", beside, user="root")
    assert tried.stderr.count("Read-only file system") == 2
    assert tried.stdout == "0\n"

    await save(host, machine, tmp_path / "one")
    spec = replace(host.spec(), sandbox_id=machine.sandbox_id, volumes=mounts)
    await host.runtime.restore(spec, tmp_path / "one")
    again = await host.command(machine, "sh", "-c", "cat /mnt/shared/file; echo two > /mnt/shared/file")
    assert again.stdout == "one\n"
    assert (await host.volumes.directory(volume) / "file").read_text() == "two\n"

    fork = replace(host.spec(), volumes=())
    with pytest.raises(FailedPreconditionError, match="/mnt/shared"):
        await host.runtime.restore(fork, tmp_path / "one")
    await host.runtime.destroy(machine.sandbox_id)
    await host.runtime.destroy(fork.sandbox_id)
    assert list((host.places.volume_mounts / "all").iterdir()) == []
    assert (await host.volumes.directory(volume) / "file").read_text() == "two\n"
