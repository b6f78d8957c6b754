"""What a recipe will do, told beforehand: its stages and their keys, sizes, time and memory."""
