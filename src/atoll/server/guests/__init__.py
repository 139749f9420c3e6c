"""Calls guestd, the daemon inside a sandbox."""
