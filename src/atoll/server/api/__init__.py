"""
Dialects: the languages that callers speak to this server.

A dialect translates a request into a verb of control, and the answer back; it holds no state and no rule.
What all of them share (errors, who calls, the size of a request) lies beside them.
"""
