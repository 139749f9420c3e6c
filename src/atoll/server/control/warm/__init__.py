"""Templates that were booted once, and machines that wait to be claimed."""
