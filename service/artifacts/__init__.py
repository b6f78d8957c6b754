"""Stored bytes: where they lie and which job made them."""
