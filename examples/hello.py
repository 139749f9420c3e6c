"""The smallest program: `eval "$(sudo atoll env)"`, then run this."""

from atoll import Sandbox

with Sandbox.create() as sandbox:
    print(sandbox.commands.run("uname -a").stdout, end="")
    sandbox.files.write("answer.py", "print(6 * 7)")
    print(sandbox.commands.run(["python3", "answer.py"], check=True).stdout, end="")
