"""
The only wiring: every part is made here, from settings, and handed to those who need it.

``python -m atoll.server.main`` runs a server in the foreground; ``stopping`` ends one from outside.
"""
