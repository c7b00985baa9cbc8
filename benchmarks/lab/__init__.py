"""The laboratory: what sparse alignment's gain depends on, each cause a knob."""
