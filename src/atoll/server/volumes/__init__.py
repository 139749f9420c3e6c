"""Volumes' files on this host."""
