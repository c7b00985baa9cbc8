"""Unseen compositions chosen from one's own images, near-duplicates kept on one side."""
