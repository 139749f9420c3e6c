"""Whether one more sandbox may be awake: of the server's, and of its team's."""

from atoll.server.control.limits import ControlLimits
from atoll.server.domain.errors import Reason, ResourceExhaustedError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.sandbox import FINAL, Status
from atoll.server.domain.team_limits import TeamLimits
from atoll.server.ports.store import SandboxFilter, Store

ALIVE = frozenset(Status) - FINAL
# What takes more than disk.
AWAKE = ALIVE - {Status.PAUSED}


async def check_room(store: Store, limits: ControlLimits, team_id: TeamId, team: TeamLimits) -> None:
    """
    Refuse what would be one too many.

    Args:
        store: the rows.
        limits: the server's.
        team_id: whose the sandbox is.
        team: the team's own limits.

    Raises:
        ResourceExhaustedError: there are as many as there may be.
    """
    if await store.count_sandboxes(SandboxFilter(statuses=AWAKE)) >= limits.max_sandboxes:
        raise ResourceExhaustedError(
            f"The most sandboxes exist that this server may have ({limits.max_sandboxes})",
            resolution="Pause or kill some, or raise max_sandboxes in the server's settings.",
            reason=Reason.NO_ROOM,
        )
    most = team.max_sandboxes
    if most is not None:
        ours = await store.count_sandboxes(SandboxFilter(team_id=team_id, statuses=AWAKE))
        if ours >= most:
            raise ResourceExhaustedError(
                f"you have reached the maximum number of concurrent sandboxes ({most}) of your team",
                resolution="Pause or kill some, or raise it: 'atoll team limits'.",
                reason=Reason.LIMIT_OF_SANDBOXES,
            )
