"""Forks of the code interpreter and randomness: what docs/snapshots.md promises of each kernel."""

import json
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox

from atoll.server.domain.template import Template

# A generator that a program made for itself is its own affair.
PYTHON = """
import json, random, ssl, numpy
if "own" not in globals():
    own = numpy.random.default_rng()
print(json.dumps({
    "random": random.random(), "ssl": ssl.RAND_bytes(8).hex(),
    "numpy": numpy.random.rand(), "own": own.random(),
}))
"""
BASH = "echo $RANDOM$RANDOM"
R = "cat(runif(1), rnorm(1), sample(1e9, 1), '\\n')"
JAVASCRIPT = "console.log(Math.random())"
# jshell's own: Java's Math.random() is seeded at its first call.
JAVA = "System.out.println(Math.random())"


def draw(sandbox: Sandbox, code: str, language: str) -> str:
    execution = sandbox.run_code(code, language=language)
    assert execution.error is None, execution.error
    drawn = "".join(execution.logs.stdout)
    assert drawn.strip()
    return drawn


def in_two_forks(sandbox: Sandbox, options: dict[str, Any], *wanted: tuple[str, str]) -> list[list[str]]:
    """Draw once, then in two forks what comes next; code and language of each."""
    for code, language in wanted:
        draw(sandbox, code, language)
    drawn = []
    for child in sandbox.fork(count=2, timeout=300):
        assert not isinstance(child, Exception), child
        with Sandbox.connect(child.sandbox_id, **options) as forked:
            drawn.append([draw(forked, code, language) for code, language in wanted])
    return drawn


def test_forks_of_a_kernel_draw_other_random_numbers_and_own_generators_go_on(
    interpreter_template: Template, client_options: dict[str, Any]
) -> None:
    with Sandbox.create(timeout=300, **client_options) as live:
        draw(live, "RANDOM=1; echo seeded", "bash")
        one, other = in_two_forks(live, client_options, (PYTHON, "python"), (BASH, "bash"))

    python, python_other = json.loads(one[0]), json.loads(other[0])
    assert {name for name in python if python[name] == python_other[name]} == {"own"}
    assert one[1] != other[1]


@pytest.mark.heavy
def test_forks_of_r_draw_other_numbers_and_those_of_javascript_and_java_the_same(
    interpreter_template: Template, client_options: dict[str, Any]
) -> None:
    with Sandbox.create(timeout=600, **client_options) as live:
        draw(live, "set.seed(1); cat('seeded')", "r")
        one, other = in_two_forks(live, client_options, (R, "r"), (JAVASCRIPT, "javascript"), (JAVA, "java"))

    r, r_other = one[0].split(), other[0].split()
    assert all(mine != theirs for mine, theirs in zip(r, r_other, strict=True)), (r, r_other)
    assert one[1:] == other[1:]


@pytest.mark.heavy
def test_a_kernel_that_comes_back_from_a_pause_begins_anew(
    interpreter_template: Template, client_options: dict[str, Any]
) -> None:
    seeds = {
        "python": "import random, numpy; random.seed(1); numpy.random.seed(1)",
        "r": "set.seed(1)",
        "bash": "RANDOM=1",
    }
    draws = {
        "python": "print(random.random()); print(numpy.random.rand())",
        "r": "cat(runif(1), '\\n', rnorm(1))",
        "bash": "echo $RANDOM$RANDOM",
    }
    with Sandbox.create(timeout=600, **client_options) as live:
        seeded = {}
        for language, seed in seeds.items():
            live.run_code(seed, language=language)
            seeded[language] = draw(live, draws[language], language)
            live.run_code(seed, language=language)

        live.pause()
        with Sandbox.connect(live.sandbox_id, timeout=600, **client_options) as back:
            for language, code in draws.items():
                before, after = seeded[language].split(), draw(back, code, language).split()
                assert all(one != other for one, other in zip(before, after, strict=True)), language
