"""
The command line: ``atoll VERB``. One file per noun.

Verbs use the SDK only. up, down and doctor look after a server on this machine, and import it when they run.
"""
