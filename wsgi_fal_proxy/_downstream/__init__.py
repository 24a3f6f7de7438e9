"""The connection to the client, where the server hands it over."""
