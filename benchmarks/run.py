"""
`make bench`: what Atoll costs, beside the raw thing in the same run.

Every pair is sampled in turns (ours, raw, ours, raw ...), so that a noisy machine troubles both alike.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import alive
import cold
import crowd
import door
import interpreter
import rates
import snapshots
import stats
import template_build
import transfer
import warm
import watching
from home import Home, running_home
from rich.console import Console

ROOT = Path(__file__).parents[1]
Benchmark = Callable[[Home, Path], list[stats.Figure]]


def template(home: Home, tool: Path) -> list[stats.Figure]:
    """Build the minimal template, which needs no server."""
    return template_build.minimal_template()


BENCHMARKS: dict[str, Benchmark] = {
    "cold": cold.create_to_first_command,
    "exec": rates.exec_round_trip,
    "files": transfer.up_and_down,
    "idle": rates.idle_costs,
    "api": rates.api_requests,
    "interpreter": interpreter.warm_cell,
    "kernel": interpreter.idle_kernel,
    "edge": door.edge_and_direct,
    "watch": watching.events,
    "streams": crowd.streams,
    "template": template,
    "warm": warm.warm_creates,
    "burst": warm.burst,
    "restores": warm.restores,
    "pauses": snapshots.pause_and_resume,
    "forks": snapshots.forks,
    "still": snapshots.standing_still,
    "alive": alive.alive,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks and print a table; without names run all of them and write bench.json."""
    console = Console(stderr=True)
    figures: list[stats.Figure] = []
    with tempfile.TemporaryDirectory(prefix="atoll-bench-tool-") as directory:
        tool = Path(directory) / "loopback"
        subprocess.run(["go", "build", "-o", tool, ROOT / "benchmarks" / "loopback" / "main.go"], check=True)
        with running_home() as home:
            for name in names or list(BENCHMARKS):
                console.print(f"measuring {name} …")
                figures += BENCHMARKS[name](home, tool)
    stats.show(figures)
    if not names:
        stats.save(figures, ROOT / "bench.json")
    return 0


def asked(arguments: list[str]) -> list[str]:
    """Return the benchmarks that were named; an unknown name ends the program before anything is started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; none: all")
    names: list[str] = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return names


if __name__ == "__main__":
    sys.exit(main(asked(sys.argv[1:])))
