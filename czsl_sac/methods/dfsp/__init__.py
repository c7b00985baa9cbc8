"""DFSP."""
