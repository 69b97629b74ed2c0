"""A run as one file: `preceptor train run.toml`.

`schema.py` says what the file may hold, `reading.py` reads it, with `--set`; `building.py` makes a
`RunConfig` and a deployment of it: student, data, feedback, teacher and objective each have a file.
Everything that the file says is a Python value too:

    built = build(RunFile(data=DataSection(train="train.jsonl"), feedback=...), folder)
    built.config, built.deployment
"""
