"""Model files: headers read without trust, data mapped read-only."""
