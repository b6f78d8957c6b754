"""The dispatcher: holds leases, starts attempts, commits what they report."""
