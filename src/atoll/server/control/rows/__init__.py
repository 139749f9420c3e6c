"""Sandboxes as they are written down: read, checked, changed, counted; and who may see them."""
