"""RAPR."""
