"""
Control: the verbs, one concern a file, in folders that use each other one way only (ARCHITECTURE.md).

``verbs.py`` has all that dialects call: sandboxes (``service.py``) and what is beside them.
"""
