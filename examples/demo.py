"""
Atoll's main job, start to end: a program that nobody has read works on a file, on a machine of its own.

Starts Atoll in a home of its own, creates a sandbox, uploads a CSV, runs a Python program over it, streams
what it prints, downloads what it wrote, takes all of it down, and shows where the time went. Needs root.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from atoll import Sandbox

ATOLL = Path(sys.executable).parent / "atoll"
# Templates and gVisor take minutes to make, and are the same for every home.
CACHE = Path(
    os.environ.get("ATOLL_CACHE_DIR")
    or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "atoll"
)

# What a model might have answered to "which region does best, and how do sales develop?".
PROGRAM = """
import collections, csv, datetime, json, statistics

with open("sales.csv", newline="") as file:
    rows = list(csv.DictReader(file))
print(f"{len(rows)} rows, columns: {', '.join(rows[0])}", flush=True)

by_region, by_month = collections.Counter(), collections.Counter()
for row in rows:
    amount = int(row["units"]) * float(row["price"])
    by_region[row["region"]] += amount
    by_month[datetime.date.fromisoformat(row["date"]).strftime("%Y-%m")] += amount

print("revenue by region:", flush=True)
for region, amount in by_region.most_common():
    print(f"  {region:6} {amount:12,.2f}", flush=True)

months = sorted(by_month)
slope, start = statistics.linear_regression(range(len(months)), [by_month[month] for month in months])
print(f"trend: {slope:+,.0f} a month", flush=True)

top = max(by_month.values())
bars = ""
for number, month in enumerate(months):
    height, left = 180 * by_month[month] / top, 40 * number + 10
    bars += f'<rect x="{left}" y="{200 - height:.0f}" width="30" height="{height:.0f}"/>'
    bars += f'<text x="{left}" y="215" font-size="9">{month[5:]}</text>'
with open("report.svg", "w") as file:
    file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="500" height="220" fill="teal">{bars}</svg>')
with open("report.json", "w") as file:
    json.dump({"by_region": by_region, "trend_per_month": round(slope, 2)}, file, indent=1)
print("wrote report.svg and report.json", flush=True)
"""


def sales() -> str:
    """Make two years of sales, the same ones every time."""
    lines = ["date,region,units,price"]
    for day in range(720):
        date = f"{2024 + day // 360}-{day % 360 // 30 + 1:02}-{min(day % 30 + 1, 28):02}"
        for number, region in enumerate(("north", "south", "east", "west")):
            lines.append(f"{date},{region},{(day * 7 + number * 13) % 40 + day // 60 + 1},{9.5 + number}")
    return "\n".join(lines) + "\n"


HELD = (signal.SIGINT, signal.SIGTERM)


class Stopwatch:
    """Remembers how long each step took, and which signal gave all of it up."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []
        self.given_up: int | None = None

    def give_up(self, number: int, _frame: object) -> None:
        """Take a signal: end, and clean up on the way."""
        self.given_up = number
        sys.exit(128 + number)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        print(f"» {name}", flush=True)
        start = time.perf_counter()
        yield
        if self.given_up is not None:
            # What a handler raises is lost where a library's C code cannot raise.
            sys.exit(128 + self.given_up)
        self.steps.append((name, time.perf_counter() - start))

    def show(self) -> None:
        """Print a table with a bar for each step."""
        longest = max(took for _, took in self.steps)
        print("\nWhere the time went")
        for name, took in self.steps:
            print(f"  {name:24} {took * 1000:9.1f} ms  {'█' * max(1, round(30 * took / longest))}")
        print(f"  {'all of it':24} {sum(took for _, took in self.steps) * 1000:9.1f} ms")


def run_to_its_end(command: list[str | Path], env: dict[str, str]) -> str:
    """Run `atoll up`; when we are given up meanwhile, so is it, and it cleans up before we go on."""
    # In a session of its own: Ctrl-C reaches it once, from here.
    # An interruption inside of Popen would lose the process that it has just started.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    process = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD),  # noqa: PLW1509  no threads yet
    )
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        output, _ = process.communicate()
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return output


@contextmanager
def atoll(watch: Stopwatch) -> Iterator[dict[str, str]]:
    """Start Atoll in a home of its own; end it, and remove all of it, whatever happens."""
    home = tempfile.mkdtemp(prefix="atoll-demo-")
    env = {**os.environ, "ATOLL_CACHE_DIR": str(CACHE)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    try:
        with watch.step("start Atoll"):
            command = [ATOLL, "up", "--home", home, "--listen", listen, "--detach"]
            lines = run_to_its_end(command, env)
        yield dict(word.split("=", 1) for word in shlex.split(lines) if "=" in word)
    finally:
        # A second Ctrl-C must not leave half of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with watch.step("take Atoll down"):
            # What would not go needs the home for a second try.
            subprocess.run([ATOLL, "down", "--home", home], check=True, env=env, start_new_session=True)
            shutil.rmtree(home, ignore_errors=True)


def show(text: str) -> None:
    """Print the program's output as it comes, a little to the right."""
    print("".join(f"  {line}" for line in text.splitlines(keepends=True) if line), end="", flush=True)


def work(watch: Stopwatch, connection: dict[str, str]) -> None:
    """Do the job."""
    with watch.step("create a sandbox"):
        sandbox = Sandbox.create(
            "base",
            allow_internet_access=False,
            api_url=connection["ATOLL_API_URL"],
            api_key=connection["ATOLL_API_KEY"],
        )
    try:
        with watch.step("first command"):
            print("  " + sandbox.commands.run(["uname", "-a"], check=True).stdout, end="")
        with watch.step("upload"):
            sandbox.files.write("sales.csv", sales())
            sandbox.files.write("program.py", PROGRAM)
        with watch.step("run the program"):
            sandbox.commands.run(
                ["python3", "program.py"],
                on_stdout=show,
                on_stderr=lambda text: print(text, end="", file=sys.stderr, flush=True),
                check=True,
            )
        with watch.step("download"):
            report = sandbox.files.read("report.json")
            picture = sandbox.files.read("report.svg", format="bytes")
        print("  " + report.replace("\n", "\n  "))
        print(f"  and report.svg, {len(picture)} bytes")
    finally:
        with watch.step("kill the sandbox"), closing(sandbox):
            sandbox.kill()


def main() -> int:
    """Run the demo."""
    watch = Stopwatch()
    for number in HELD:
        signal.signal(number, watch.give_up)
    try:
        with atoll(watch) as connection:
            work(watch, connection)
    except subprocess.CalledProcessError as error:
        # It has said why.
        return error.returncode
    watch.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
