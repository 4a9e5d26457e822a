"""How a volume goes through a network."""
