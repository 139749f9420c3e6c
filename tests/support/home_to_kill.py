"""The network of a home, held by a process of its own: ``python -m support.home_to_kill ID DIRECTORY``."""

import asyncio
import sys
from pathlib import Path

from atoll.server.host.ports import free_port
from atoll.server.network import home_network
from support.network import TestHome, acquire, home_record


async def main(home_id: str, path: Path) -> None:
    """Claim a range, put the fence up, hold a slot and have others ready; then wait to be killed."""
    prepared = await asyncio.to_thread(home_network.prepare, home_id, record=home_record(home_id, path))
    home = TestHome(id=home_id, path=path, addresses=prepared.addresses, dns_port=free_port())
    async with home.pool(ready=1) as pool:
        await acquire(pool)
        sys.stdout.write(f"{prepared.addresses.v4}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
