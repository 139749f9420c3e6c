"""Who may go on: a turn of the machine's, in one queue for all teams, and a lock for each sandbox."""
