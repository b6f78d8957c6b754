"""Rows side by side: their columns, what does not compare and why, and the table in its forms. Imports no torch."""
