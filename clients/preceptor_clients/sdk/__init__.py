"""The service SDK: a class with one async method becomes an expert or a feedback source.

`service.py` makes the application, `answers.py` builds answers that pass the check on the other
side, `context.py` and `templates.py` render prompt and feedback for a model, `admission.py` bounds
the memory of answers under way, `offered_weights.py` reads versions of a policy's weights.
"""
