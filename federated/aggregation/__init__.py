"""Rules by which a server joins updates, and what hospitals and server add for privacy."""
