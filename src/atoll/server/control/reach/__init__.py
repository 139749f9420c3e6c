"""How sandboxes are found: by the edge, by names, by what only their own clients can show."""
