"""HTTP: turns requests into use cases and outcomes into responses. No rules about orders live here."""
