"""The gateway's routes, one file per area; each reads, asks one part, and replies."""
