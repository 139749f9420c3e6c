"""All that callers may have done: one object for each noun, as main puts them together for the dialects."""

from dataclasses import dataclass

from atoll.server.control.owned.identity import Identity
from atoll.server.control.owned.keys import Keys
from atoll.server.control.owned.secrets import Secrets
from atoll.server.control.owned.signing_in import SigningIn
from atoll.server.control.service import Control
from atoll.server.control.upkeep.storing import Storing
from atoll.server.control.upkeep.teams import Teams
from atoll.server.control.watching.events import Events
from atoll.server.control.watching.logbook import Logbook
from atoll.server.control.watching.observing import Observing
from atoll.server.control.watching.team_metrics import TeamMetrics
from atoll.server.control.watching.webhooks import Webhooks


@dataclass(frozen=True, kw_only=True)
class Verbs:
    """
    The verbs by noun.

    Attributes:
        control: sandboxes, and who calls.
        observing: what sandboxes use.
        team_metrics: how many of a team's ran.
        logbook: what happened in them.
        secrets: what sandboxes may use and never see.
        identity: what sandboxes prove to others that they are.
        events: what happened to them, for their owners.
        webhooks: where that is sent.
        keys: teams, and who may call for them.
        teams: limits and deletion of teams.
        signing_in: keys for command lines.
        storing: what takes room on the disk.
    """

    control: Control
    observing: Observing
    team_metrics: TeamMetrics
    logbook: Logbook
    secrets: Secrets
    identity: Identity
    events: Events
    webhooks: Webhooks
    keys: Keys
    teams: Teams
    signing_in: SigningIn
    storing: Storing
