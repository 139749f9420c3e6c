"""What sandboxes did and used, kept for their owners and told to their webhooks."""
