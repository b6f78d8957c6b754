"""The `dress` commands, one noun a file; `api/cli.py` has those of jobs and gathers all."""
