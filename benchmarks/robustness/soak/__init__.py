"""A soak: many calls for a long time, while fal and the clients fail in every way at random."""
