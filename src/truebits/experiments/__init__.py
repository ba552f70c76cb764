"""The whole before-and-after story, and models with known truth."""
