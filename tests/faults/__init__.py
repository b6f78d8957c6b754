"""Faults injected at random times into what runs for real, and the checkers of what came of it."""
