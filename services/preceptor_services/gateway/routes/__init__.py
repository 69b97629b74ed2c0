"""The gateway's routes, one file per area; each reads the request, calls one part and replies."""
