"""What a finished run says: predictions of image files, heat maps, and a page about the run."""
