"""HTTP without network I/O: messages, header fields, bodies, content codings and CORS."""
