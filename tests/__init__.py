"""The tests, by what they need.

- `unit`: one process and loopback; the whole folder takes less than half a minute.
- `wire`: faults and bytes over real TLS, through the whole proxy.
- `limits`: Redis.
- `servers`: WSGI servers and the command, as processes.
- `frameworks`: the frameworks that mount the proxy.
- `browser`: Chromium, and Node.
- `project`: the README, the documents, the package, the examples.
- `support`: what several of them share. No test is here.

A test's name starts with the unit under test.
"""
