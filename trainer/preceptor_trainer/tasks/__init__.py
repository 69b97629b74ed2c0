"""Tasks of a student: problems, and how attempts at them are judged."""
