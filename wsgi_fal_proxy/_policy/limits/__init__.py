"""How many calls each caller may make: the notation, the count and where it is kept."""
