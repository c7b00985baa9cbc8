"""Image files in, named compositions and heat maps out."""
