"""What the package promises of its behaviour under load and under faults, and what it costs."""
