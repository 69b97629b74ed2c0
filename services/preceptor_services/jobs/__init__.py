"""Transport of jobs from the gateway to the dispatchers.

`messages.py` defines their HTTP messages, `queue.py` the gateway's interface of a queue,
`streams.py` the queue on Redis or Valkey (the only module that uses the broker), and
`embedded_broker.py` runs a broker as a child process.
"""
