"""What every resource shares; it knows none of them."""
