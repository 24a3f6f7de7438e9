"""What one process decides."""
