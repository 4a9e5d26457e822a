"""The networks and their weights, in plain torch."""
