"""Runs sandboxes in gVisor."""
