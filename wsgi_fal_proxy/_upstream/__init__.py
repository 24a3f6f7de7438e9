"""The connection to fal. The only folder that imports urllib3 and that dials."""
