"""What the method must know of each architecture: one family a file, named by Hugging Face's `model_type`."""
