"""Stand-ins that keep the promises of what they stand for; shared by tests of several parts."""
