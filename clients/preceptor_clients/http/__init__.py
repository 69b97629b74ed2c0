"""HTTP clients of the gateway and of services. Only `connection.py` touches the HTTP library."""
