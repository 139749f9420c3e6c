"""
The E2B dialect: what unmodified E2B clients send and expect, translated to control's verbs.

Field names, statuses and texts are those that released clients match.
An option that Atoll does not have is refused by name, never ignored.
"""
