"""From changes in the table to events on the bus, and to their consumers."""
