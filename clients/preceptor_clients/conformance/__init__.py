"""Conformance checks of an expert over HTTP, independent of its programming language.

Each check is a function of a `Subject`. It returns a short note about its result, or raises
`Failed` with what was expected, what was found and how to fix it. `suite.py` lists the checks in
order.

Example:
    report = await check_expert("http://127.0.0.1:8101", CheckOptions())
    print(report.as_text())
"""
