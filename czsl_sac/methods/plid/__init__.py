"""PLID."""
