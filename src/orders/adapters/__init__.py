"""The ports, implemented: in memory for tests, on AWS for the rest."""
