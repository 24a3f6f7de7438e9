"""Real WSGI servers, and the command, as processes."""
