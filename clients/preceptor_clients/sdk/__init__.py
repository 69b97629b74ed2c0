"""The service SDK: a class with one async method becomes an expert or a feedback source.

`service.py` makes the application, `answers.py` builds answers that pass the gateway's
check, `context.py` and `templates.py` render prompt and feedback for a model, `admission.py` bounds
the memory of answers in progress, `offered_weights.py` reads versions of a policy's weights.
`judging.py` has what a judge needs, the function that is a whole feedback source.
"""

from preceptor_clients.sdk.judging import Feedback, NotJudged, Response

__all__ = ["Feedback", "NotJudged", "Response"]
