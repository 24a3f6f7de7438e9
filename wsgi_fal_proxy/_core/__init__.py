"""The formula: one request in, fal's answer or one of our own out."""
