"""Carriers of what goes to strangers on the network; they know nothing of sandboxes."""
