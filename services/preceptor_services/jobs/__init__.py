"""Jobs on their way from the gateway to the dispatchers.

`messages.py` is what both say to each other over HTTP, `queue.py` what the gateway needs of a
queue, `streams.py` the queue on Redis or Valkey (the only module that touches the broker),
`embedded_broker.py` a broker as a child process.
"""
