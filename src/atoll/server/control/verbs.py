"""All that callers may have done: one object for each noun, as main puts them together for the dialects."""

from dataclasses import dataclass

from atoll.server.control.events import Events
from atoll.server.control.identity import Identity
from atoll.server.control.keys import Keys
from atoll.server.control.logbook import Logbook
from atoll.server.control.observing import Observing
from atoll.server.control.secrets import Secrets
from atoll.server.control.service import Control
from atoll.server.control.signing_in import SigningIn
from atoll.server.control.storing import Storing
from atoll.server.control.team_metrics import TeamMetrics
from atoll.server.control.teams import Teams
from atoll.server.control.webhooks import Webhooks


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
