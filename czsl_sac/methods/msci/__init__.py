"""MSCI."""
