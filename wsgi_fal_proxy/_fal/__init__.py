"""fal's URLs, operations, key and header fields.

The only I/O is in `key`, which reads the environment and the key file.
"""
