"""The options: each declared once, checked at construction, read from text or the environment."""
