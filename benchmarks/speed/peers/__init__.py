"""Source of the other proxies. Each runs in its own process and imports only `formula`."""
