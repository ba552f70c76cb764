"""The version: in a module of its own, so that what only prints it imports nothing else."""

__version__ = "0.1.0"
