"""The one training loop, what it minimizes, how it updates, and what rides on it."""
