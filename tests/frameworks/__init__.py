"""What the frameworks make of it."""
