"""ClusPro."""
