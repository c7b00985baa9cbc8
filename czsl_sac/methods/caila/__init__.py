"""CAILA."""
