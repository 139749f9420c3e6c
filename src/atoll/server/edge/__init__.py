"""Starts, adopts and tells the edge, the program that carries users' bytes."""

from atoll.server.edge.admin import EdgeStatus
from atoll.server.edge.process import EdgeLimits, EdgeOptions, EdgeProcess
from atoll.server.edge.tls import EdgeACME, EdgeTLS

__all__ = ["EdgeACME", "EdgeLimits", "EdgeOptions", "EdgeProcess", "EdgeStatus", "EdgeTLS"]
