"""Products: the second resource, and the one to copy."""
