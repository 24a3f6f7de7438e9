"""The process that we run in: its environment, its forks, and what gevent has replaced."""
