"""The executor: runs the student's program on the task's cases and reports the result.

`service.py` is the feedback source. `expressions.py` judges Python expressions, `programs.py` whole
programs in any language of `languages.py`: `extraction.py` finds the program in the response,
`python_runner.py` is what runs in the sandbox beside it, `outputs.py` compares what came out with
what was expected, and `failures.py` writes the feedback. Nothing expected ever enters a sandbox.
"""

from preceptor_services.feedback.executor.service import Executor

__all__ = ["Executor"]
