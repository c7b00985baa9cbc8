"""LogiCZSL, a re-interpretation."""
