"""
Fakes of all that control works with: for tests, and for trying the server without a machine for it.

Nothing here isolates anything. Each fake can be told to fail or hang at a named place (``Faults``).
"""
