"""Zero-shot tasks: local rows of the five that the paper averages, one file a task, and lm-eval around the models."""
