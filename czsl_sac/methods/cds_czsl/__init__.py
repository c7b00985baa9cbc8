"""CDS-CZSL, a re-interpretation."""
