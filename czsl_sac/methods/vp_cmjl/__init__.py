"""VP-CMJL."""
