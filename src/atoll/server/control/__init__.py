"""Control: the verbs of a sandbox, one concern a file; `service.py` is what the dialects call."""
