"""What fal is: its URLs, its operations, its key and its header fields. No I/O but the key file."""
