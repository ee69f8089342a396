"""What a run survives by: non-finite updates, stop requests, hangs."""
