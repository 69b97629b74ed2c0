"""Is this HTTP service an expert? Checks from outside, in any language it may be written.

Each check is a function of a `Subject` that returns a word about what it saw, or raises `Failed`
with what was expected, what came and how to mend it. `suite.py` names them in order.

Example:
    report = await check_expert("http://127.0.0.1:8101", CheckOptions())
    print(report.as_text())
"""
