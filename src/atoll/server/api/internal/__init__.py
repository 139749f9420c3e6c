"""
What our own programs ask the server: the edge, where a sandbox is.

Behind a socket that only they can open.
"""
