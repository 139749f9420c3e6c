"""The languages: which kernel speaks them, and how it sets and resets a variable of its environment."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_ALIASES = {"js": "javascript", "ts": "typescript", "py": "python", "python3": "python", "sh": "bash"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,255}")


def _quoted(value: str) -> str:
    """Quote for Python, JavaScript, R and Java: JSON's strings are strings there."""
    return json.dumps(value)


def _bash(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


@dataclass(frozen=True)
class Language:
    """
    A language's kernel, its two statements about a variable, and how its random numbers begin anew.

    Where there is no such code, they cannot: V8 and Java seed theirs once.
    """

    name: str
    kernel: str
    set_variable: Callable[[str, str], str]
    unset_variable: Callable[[str], str]
    reseed: str = ""
    # Its kernel hands code on to another process, which can be gone after an interrupt.
    is_go_between: bool = False

    def environment(self, changes: Mapping[str, str | None]) -> str:
        """Write code that sets variables, and unsets those that are None."""
        lines = [
            self.unset_variable(key) if value is None else self.set_variable(key, value)
            for key, value in changes.items()
        ]
        return "\n".join(lines)


def _deno(name: str) -> Language:
    return Language(
        name,
        "deno",
        lambda key, value: f"Deno.env.set({_quoted(key)}, {_quoted(value)});",
        lambda key: f"Deno.env.delete({_quoted(key)});",
    )


def _java(change: str, also: str) -> str:
    """
    Write a block that changes the map behind System.getenv, and a property, and leaves no name.

    A Java program has no call for the first: kernel.json opens the two packages whose fields these are.
    """
    return (
        '{ var shown = Class.forName("java.lang.ProcessEnvironment")'
        '.getDeclaredField("theUnmodifiableEnvironment");'
        ' var inner = Class.forName("java.util.Collections$UnmodifiableMap").getDeclaredField("m");'
        " shown.setAccessible(true); inner.setAccessible(true);"
        f" ((java.util.Map<String, String>) inner.get(shown.get(null))).{change}; System.{also}; }}"
    )


# Only what is there: loading a module would cost every kernel. The generators that a program made for itself,
# numpy's default_rng() say, are its own affair.
_PYTHON_RESEED = """
for _seeder in (("random", "seed"), ("numpy.random", "seed")):
    if _seeder[0] in __import__("sys").modules:
        getattr(__import__("sys").modules[_seeder[0]], _seeder[1])()
if "_ssl" in __import__("sys").modules:
    __import__("sys").modules["_ssl"].RAND_add(__import__("os").urandom(32), 32.0)
del _seeder
"""

_LANGUAGES = {
    language.name: language
    for language in (
        Language(
            "python",
            # jupyter_client means this by "python", whatever is called so.
            "python3",
            lambda key, value: f"__import__('os').environ[{_quoted(key)}] = {_quoted(value)}",
            lambda key: f"__import__('os').environ.pop({_quoted(key)}, None)",
            _PYTHON_RESEED,
        ),
        _deno("javascript"),
        _deno("typescript"),
        Language(
            "bash",
            "bash",
            lambda key, value: f"export {key}={_bash(value)}",
            lambda key: f"unset {key}",
            "RANDOM=$(od -An -N2 -tu2 /dev/urandom)",
            is_go_between=True,
        ),
        Language(
            "r",
            "r",
            lambda key, value: f"invisible(Sys.setenv({key}={_quoted(value)}))",
            lambda key: f"invisible(Sys.unsetenv({_quoted(key)}))",
            "set.seed(NULL)",
        ),
        Language(
            "java",
            "java",
            lambda key, value: _java(
                f"put({_quoted(key)}, {_quoted(value)})", f"setProperty({_quoted(key)}, {_quoted(value)})"
            ),
            lambda key: _java(f"remove({_quoted(key)})", f"clearProperty({_quoted(key)})"),
        ),
    )
}
NAMES = tuple(_LANGUAGES)


def find(name: str) -> Language | None:
    """Find a language by its name, or by what people call it."""
    plain = name.strip().lower()
    return _LANGUAGES.get(_ALIASES.get(plain, plain))


def is_variable(name: str) -> bool:
    """Say whether this can be set in every language."""
    return _NAME.fullmatch(name) is not None
