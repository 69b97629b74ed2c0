"""The gateway: the one door to experts and feedback sources, and the only writer of SQL and blobs.

`app.py` is the application, `parts.py` what it is made of, `routes/` one thin file per area, and
`http/` what all routes share. What the routes do lies in rooms of its own: `questions`, `registry`,
`provenance`, `corrections`.
"""
