"""HTTP without any network I/O: messages, fields, bodies and codings as values."""
