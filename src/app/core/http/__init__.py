"""The HTTP side of the application, for both runtimes."""
