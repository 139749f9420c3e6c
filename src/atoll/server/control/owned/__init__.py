"""What teams own beside sandboxes: keys, secrets, volumes; and what vouches for their sandboxes."""
