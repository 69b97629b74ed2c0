"""The gateway: the access to experts and feedback sources, and the only writer of SQL and blobs.

`app.py` is the application, `parts.py` builds its parts, `routes/` has one thin file per area, and
`http/` holds what all routes share. The work of the routes is in other packages: `questions`,
`registry`, `provenance`, `corrections`.
"""
