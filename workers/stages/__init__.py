"""The steps of an attempt, one a file. Each yields events while it works and returns what it leaves behind."""
