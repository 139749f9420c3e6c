"""Ten sandboxes at once, with asyncio: each counts the primes of its own range."""

import asyncio

from atoll import AsyncSandbox

CODE = """
import sys
first, last = map(int, sys.argv[1:])
print(sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(first, 2), last)))
"""


async def count(start: int) -> int:
    async with await AsyncSandbox.create() as sandbox:
        result = await sandbox.commands.run(
            ["python3", "-c", CODE, str(start), str(start + 10_000)], check=True
        )
    return int(result.stdout)


async def main() -> None:
    counts = await asyncio.gather(*(count(start) for start in range(0, 100_000, 10_000)))
    print(counts, sum(counts))


asyncio.run(main())
