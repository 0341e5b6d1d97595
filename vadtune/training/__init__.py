"""Training, test-time inference and the exported artifact: none of it has heard of searching."""
