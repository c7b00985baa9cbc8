"""Training: configurations and presets, the loop, checkpoints, and whole runs.

Nothing is imported here, so that the command line can show its options without loading torch.
"""
