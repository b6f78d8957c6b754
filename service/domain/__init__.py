"""Pure values and rules of jobs and leases. No SQL, no Ray."""
