"""
The SDK for asyncio. Its twin for threads, ``_sync``, is generated from here by ``scripts/unasync.py``.

Each file knows those above it only: api, daemon < handle, commands, files, pty < volume_files < volume
< sandbox.
"""
