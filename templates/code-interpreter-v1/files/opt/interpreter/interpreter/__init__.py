"""
The code interpreter's server, inside the sandbox: Jupyter kernels behind E2B's small HTTP service.

It runs as the same user as the kernels, so it protects nobody from the code that runs here; it has to live
through what that code does to its kernel. It has a Python environment of its own.
"""
