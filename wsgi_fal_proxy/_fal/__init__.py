"""What fal is: its URLs, operations, key and header fields. The only I/O reads the key file."""
