"""What the verbs share: requests, limits, rows read and changed, tasks, locks and the queue."""
