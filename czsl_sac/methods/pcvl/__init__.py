"""PCVL."""
