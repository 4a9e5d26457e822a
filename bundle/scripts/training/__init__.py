"""What the loss compares: windows and their targets."""
