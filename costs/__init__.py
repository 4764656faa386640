"""What either runtime costs a month: prices (`prices.toml`), a model of the stack, and a report."""
