"""Rows of data as problems: reading, checking, splitting, filtering and shuffling them.

`reading.py` reads JSON, parquet and Hugging Face data sets; `formats/` knows the columns of files
that the field has; `rows.py` makes problems of what was read; `splits.py` takes held-out rows and
checks that they are not trained on; `lengths.py` drops prompts that are too long; `epochs.py` gives
each step its rows.
"""
