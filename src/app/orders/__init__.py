"""Orders: the first resource."""
