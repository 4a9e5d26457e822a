"""What the loss sees: windows and their targets."""
