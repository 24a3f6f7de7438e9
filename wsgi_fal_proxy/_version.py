"""The version, in one place: the build reads it, and so does the header that names us to fal."""

__version__ = "0.1.0"
