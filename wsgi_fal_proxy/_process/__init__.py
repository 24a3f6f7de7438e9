"""The process: its environment, its forks, and the functions that gevent replaces."""
