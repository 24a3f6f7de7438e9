"""Limits: the notation, the costs, the callers, and the store that counts them."""
