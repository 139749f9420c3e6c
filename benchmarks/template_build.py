"""
Building the template `minimal`, beside raw mmdebstrap of the same packages from the same archives, in turns.

Needs no running home, only root and a Debian mirror. `python benchmarks/template_build.py` runs it alone.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import stats

from atoll.server.host.apt import debian_mirror
from atoll.server.images.library import TemplateLibrary
from atoll.server.images.recipe import load_recipe, recipes_directory

RECIPE = "minimal"
# A build takes some 13 s, most of it the processor's; the spread is a few per cent.
SAMPLES = 3
TARGET = 1.15
TIMEOUT_S = 900


def minimal_template() -> list[stats.Figure]:
    """Sample both in turns, each into an empty directory of the same file system."""
    ours, raw = [], []
    with tempfile.TemporaryDirectory(prefix="atoll-bench-template-") as directory:
        # Once for nothing: a mirror that caches answers the first one slowly.
        raw_build(Path(directory))
        for _ in range(SAMPLES):
            ours.append(our_build(Path(directory)))
            raw.append(raw_build(Path(directory)))
    ratio = stats.median(ours) / stats.median(raw)
    return [
        stats.Figure(
            name=f"build template {RECIPE}", unit="s", median=stats.median(ours), p95=stats.p95(ours),
            raw=stats.median(raw), raw_p95=stats.p95(raw), target=f"≤ {TARGET} × raw", score=ratio,
            met=ratio <= TARGET, samples=len(ours),
        )
    ]  # fmt: skip


def our_build(directory: Path) -> float:
    """Build and remove the template; return seconds, those until it is on disk included."""
    target = directory / "templates"
    start = time.perf_counter()
    asyncio.run(TemplateLibrary(target).ensure(RECIPE))
    took = time.perf_counter() - start
    shutil.rmtree(target)
    return took


def raw_build(directory: Path) -> float:
    """Run mmdebstrap as a person would, with the host's mirror; return seconds."""
    recipe = load_recipe(recipes_directory(), RECIPE)
    mirror = debian_mirror()
    target = directory / "raw"
    archives = [(mirror.main, recipe.suite), (mirror.main, f"{recipe.suite}-updates")]
    if mirror.security:
        archives.append((mirror.security, f"{recipe.suite}-security"))
    lines = [f"deb [signed-by={mirror.keyring}] {uri} {suite} main" for uri, suite in archives]
    start = time.perf_counter()
    # In a mount namespace of its own: killed half-way, it leaves no mounts.
    subprocess.run(
        ["unshare", "--mount", "mmdebstrap", "--quiet", "--format=directory", f"--variant={recipe.variant}",
         f"--include={','.join(recipe.packages)}", recipe.suite, target, *lines],
        check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    took = time.perf_counter() - start
    shutil.rmtree(target)
    return took


if __name__ == "__main__":
    figures = minimal_template()
    stats.show(figures)
    sys.exit(0 if all(figure.met for figure in figures) else 1)
