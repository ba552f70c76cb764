"""What to write, and how to write it without losing anything."""
