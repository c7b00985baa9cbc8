"""A page about a finished run."""
