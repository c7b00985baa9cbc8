"""CAMS."""
