"""The demonstration's fleet: small agents that do real work with real tools on the project's own files."""
