"""Two forks and randomness: each source, and what docs/snapshots.md promises of it."""

import json
import shlex
from typing import Any

from e2b import Sandbox

# Draws once before the fork, so that everything that keeps numbers in stock has some; then on each word.
PYTHON = """
import json, os, random, secrets, ssl, sys, uuid
def draw():
    return {
        "getrandom": os.getrandom(16).hex(),
        "urandom": open("/dev/urandom", "rb").read(16).hex(),
        "uuid4": str(uuid.uuid4()),
        "secrets": secrets.token_hex(),
        "random": random.random(),
        "ssl": ssl.RAND_bytes(16).hex(),
    }
draw()
def reseed(*_):
    random.seed()
    ssl.RAND_add(os.urandom(32), 32.0)
import signal
signal.signal(signal.SIGHUP, reseed)
open("/tmp/python.pid", "w").write(str(os.getpid()))
while True:
    while not os.path.exists("/tmp/go"):
        import time; time.sleep(0.05)
    open("/tmp/python.new", "w").write(json.dumps(draw()))
    os.rename("/tmp/python.new", "/tmp/python.json")
    break
"""
NODE = """
const crypto = require("crypto"), fs = require("fs");
const draw = () => ({
  bytes: crypto.randomBytes(16).toString("hex"), uuid: crypto.randomUUID(), math: Math.random(),
});
draw();
fs.writeFileSync("/tmp/node.pid", String(process.pid));
const timer = setInterval(() => {
  if (!fs.existsSync("/tmp/go")) return;
  clearInterval(timer);
  fs.writeFileSync("/tmp/node.new", JSON.stringify(draw()));
  fs.renameSync("/tmp/node.new", "/tmp/node.json");
}, 50);
"""
# What programs that start after the fork draw.
FRESH = {
    "random": "import random; print(random.random())",
    "ssl": "import ssl; print(ssl.RAND_bytes(8).hex())",
    "math": "console.log(Math.random())",
    "randomBytes": "console.log(require('crypto').randomBytes(8).toString('hex'))",
    "bash": "echo $RANDOM$RANDOM",
}
PROGRAMS = {"random": "python3 -c", "ssl": "python3 -c", "bash": "bash -c"}
KERNEL = {"getrandom", "urandom", "uuid4", "secrets"}
IN_STOCK = {"random", "ssl"}


Drawn = dict[str, Any]


def forks(options: dict[str, Any], *, hook: str = "") -> list[tuple[Drawn, Drawn, Drawn]]:
    """Fork a sandbox with both programs in it; return what they and new ones draw in each of two."""
    drawn = []
    with Sandbox.create("base", timeout=300, **options) as sandbox:
        sandbox.files.write("/tmp/draw.py", PYTHON)
        sandbox.files.write("/tmp/draw.js", NODE)
        if hook:
            sandbox.files.write("/etc/atoll/restored.d/reseed", hook, user="root")
            sandbox.commands.run("chmod +x /etc/atoll/restored.d/reseed", user="root")
        sandbox.commands.run("python3 /tmp/draw.py >/tmp/log 2>&1 & node /tmp/draw.js >/tmp/log2 2>&1 &")
        sandbox.commands.run("until [ -s /tmp/python.pid ] && [ -s /tmp/node.pid ]; do sleep 0.1; done")
        for child in (one for one in sandbox.fork(count=2, timeout=300)):
            assert isinstance(child, Sandbox), child
            drawn_both = "[ -s /tmp/python.json ] && [ -s /tmp/node.json ]"
            child.commands.run(f"touch /tmp/go; until {drawn_both}; do sleep 0.1; done")
            read = (json.loads(child.files.read(f"/tmp/{name}.json")) for name in ("python", "node"))
            run = child.commands.run
            fresh = {
                name: run(f"{PROGRAMS.get(name, 'node -e')} {shlex.quote(code)}").stdout
                for name, code in FRESH.items()
            }
            drawn.append((next(read), next(read), fresh))
            child.kill()
    return drawn


def test_the_kernel_and_what_starts_anew_give_no_two_forks_the_same_and_stocks_are_the_same(
    client_options: dict[str, Any],
) -> None:
    (one, node_one, fresh_one), (other, node_other, fresh_other) = forks(client_options)

    assert {name for name in one if one[name] != other[name]} == KERNEL
    assert node_one == node_other
    assert {name for name in FRESH if fresh_one[name] != fresh_other[name]} == set(FRESH)


def test_a_hook_has_programs_draw_anew(client_options: dict[str, Any]) -> None:
    hook = "#!/bin/sh\nkill -HUP $(cat /tmp/python.pid)\nsleep 0.2\n"

    (one, *_), (other, *_) = forks(client_options, hook=hook)

    assert {name for name in one if one[name] != other[name]} == KERNEL | IN_STOCK
