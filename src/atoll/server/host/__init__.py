"""One file for each program or kernel facility. Knows nothing of sandboxes."""
