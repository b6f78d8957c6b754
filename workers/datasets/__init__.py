"""The corpora: `dataset.py` is what they share, every other file is one corpus, named as in the recipe."""
