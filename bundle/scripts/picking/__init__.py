"""From logits to picks."""
