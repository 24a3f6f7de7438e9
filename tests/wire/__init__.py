"""What happens on the connection to fal, over real TLS."""
