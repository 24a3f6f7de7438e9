"""The connection to the client, if the server exposes it."""
