"""Serve the proxy by itself with gunicorn.

    FAL_KEY=... gunicorn -c examples/gunicorn.conf.py wsgi_fal_proxy.wsgi

Leaves out: who may call (anyone who reaches this server can, and you pay), and TLS, which is the
business of the server in front.
"""

import os

bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"

# A call of fal's takes a thread for as long as it lasts, seconds to minutes: so many at a time.
worker_class = "gthread"
workers = 2
threads = 64

# Not a bound on a request with this class of worker, but on a worker that does not respond.
timeout = 30
# On a restart, streams that are under way have this long to come to their end.
graceful_timeout = 60

# Longer than nginx keeps an idle connection, which is 60 seconds unless it is told otherwise.
keepalive = 75

# Nobody controls this gunicorn by a socket. Versions that know none do not mind.
control_socket_disable = True
