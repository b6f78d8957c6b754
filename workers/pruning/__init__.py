"""Pruning methods, one a file, and the mathematics they share: the basis of the stream and the cut."""
