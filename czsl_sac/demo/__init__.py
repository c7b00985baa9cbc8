"""A page in the browser on which a run, or CLIP as it comes, is asked about images."""
