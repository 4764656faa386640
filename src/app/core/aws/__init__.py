"""Calls to AWS: clients, connections, credentials, endpoints."""
