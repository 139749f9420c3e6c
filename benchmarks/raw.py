"""The raw thing beside snapshots: containers of a bare program, written down and restored by runsc itself."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from cold import newest, raw_bundle
from home import CACHE

# A program that holds so many megabytes of its own, none like another, and says when it does.
HOLD = """
import os, sys, time
block = [os.urandom(1 << 20) for _ in range(int(sys.argv[1]))]
open("/tmp/held", "w").close()
while True: time.sleep(1000)
"""


class Raw:
    """Containers in one directory, as runsc's own commands make them; ``close`` ends them all."""

    def __init__(self, directory: Path, argv: list[str]) -> None:
        """
        Args:
            directory: for bundle, state and images; empty.
            argv: what runs in every container.
        """
        (self._runsc,) = newest(CACHE / "runsc", "*/runsc")
        self._directory = directory
        self._bundle = raw_bundle(directory)
        config = self._bundle / "config.json"
        description = json.loads(config.read_text())
        description["process"]["args"] = argv
        description["process"]["user"] = {"uid": 0, "gid": 0}
        config.write_text(json.dumps(description))
        self._living: list[str] = []

    def start(self, name: str) -> None:
        """Run a container in the background."""
        self._call(name, "run", "--detach", f"--bundle={self._bundle}", name)
        self._living.append(name)

    def wait_for(self, name: str, path: str) -> None:
        """Return when a file is there inside."""
        while self._run(name, "exec", name, "test", "-e", path).returncode:
            time.sleep(0.1)

    def output(self, name: str, *argv: str) -> str:
        """Run a command in a container; return what it prints."""
        done = self._run(name, "exec", name, *argv)
        text = (self._directory / "output").read_text()
        assert done.returncode == 0, text
        return text

    def checkpoint(self, name: str, image: Path, *, leave_running: bool = False) -> float:
        """
        Write a container down, on the disk when it returns; return milliseconds.

        Of runsc's ways the fastest to that: with ``--direct`` its files must be synced as well, or a disk
        that caches what it writes loses them, and a file system where they lie.
        """
        image.mkdir()
        words = ["checkpoint", f"--image-path={image}", "--compression=none"]
        start = time.perf_counter()
        self._call(name, *words, *(["--leave-running"] if leave_running else []), name)
        for path in (*image.iterdir(), image, image.parent):
            synced(path)
        took = (time.perf_counter() - start) * 1e3
        if not leave_running:
            self.remove(name)
        return took

    def restore(self, name: str, image: Path) -> float:
        """Restore a container in one call; return milliseconds."""
        start = time.perf_counter()
        self._call(name, "restore", "--detach", f"--bundle={self._bundle}", f"--image-path={image}", name)
        self._living.append(name)
        return (time.perf_counter() - start) * 1e3

    def remove(self, name: str) -> None:
        """End a container."""
        self._run(name, "delete", "--force", name)
        self._forget(name)

    def close(self) -> None:
        """End all containers; runsc leaves one mount behind."""
        for name in list(self._living):
            self.remove(name)
        subprocess.run(["umount", self._directory / "state" / "null-netns"], check=False)

    def _forget(self, name: str) -> None:
        if name in self._living:
            self._living.remove(name)
        shutil.rmtree(self._directory / f"overlay-{name}", ignore_errors=True)

    def _call(self, name: str, *words: str) -> None:
        done = self._run(name, *words)
        assert done.returncode == 0, (words, (self._directory / "output").read_text())

    def _run(self, name: str, *words: str) -> "subprocess.CompletedProcess[bytes]":
        overlay = self._directory / f"overlay-{name}"
        overlay.mkdir(exist_ok=True)
        # Not a pipe: the container inherits it, and would hold it open.
        with (self._directory / "output").open("wb") as output:
            return subprocess.run(
                [self._runsc, f"--root={self._directory}/state", "--network=sandbox",
                 f"--overlay2=root:dir={overlay}", *words],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=120,
                env={"PATH": os.defpath},
            )  # fmt: skip


def synced(path: Path) -> None:
    """Have a file or directory on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
