"""
The Python SDK: one noun, ``Sandbox``, for asyncio and for threads.

Users import from ``atoll``; the modules here are private. The server is never imported.
"""
