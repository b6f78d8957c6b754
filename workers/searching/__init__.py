"""A search's course: what is tried next, what ends early, what is best; engines run it, and none is known here."""
