"""Every 4xx and 5xx response as problem details (RFC 9457), whatever raised the error."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from preceptor_clients.contract.errors import (
    PROBLEM_MEDIA_TYPE,
    FieldError,
    Invalid,
    MethodNotAllowed,
    NotFound,
    PreceptorError,
    ProblemDetails,
)
from preceptor_clients.kit import request_ids

_log = logging.getLogger("preceptor.gateway")


def add_handlers(app: FastAPI) -> None:
    """Makes `app` return every error as problem details."""
    app.add_exception_handler(PreceptorError, _ours)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(Exception, _unexpected)


def response_to(request: Request, error: Exception) -> Response:
    """The response to a request that failed with any error."""
    match error:
        case PreceptorError():
            return _ours(request, error)
        case HTTPException():
            return _framework(request, error)
        case _:
            return _unexpected(request, error)


def problem_response(error: PreceptorError, instance: str | None = None) -> Response:
    """`error` as a response, with the headers of its status."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return _response(error.problem(instance), headers)


def _response(problem: ProblemDetails, headers: dict[str, str] | None = None) -> Response:
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=headers,
    )


def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, PreceptorError), "registered for it"
    return problem_response(error, request.url.path)


def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for it"
    path, method = request.url.path, request.method
    if error.status_code == 404:
        return problem_response(NotFound(f"no route {path}", field="path"), path)
    if error.status_code == 405:
        response = problem_response(
            MethodNotAllowed(f"{path} does not take {method}", field="method"), path
        )
        response.headers.update(error.headers or {})
        return response
    return _response(
        ProblemDetails(status=error.status_code, detail=str(error.detail), instance=path)
    )


def _parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for it"
    fields = tuple(
        FieldError(field=".".join(str(part) for part in e["loc"]), detail=str(e["msg"]))
        for e in error.errors()
    )
    detail = "; ".join(f"{f.field}: {f.detail}" for f in fields[:3])
    return problem_response(Invalid(detail, errors=fields), request.url.path)


def _unexpected(request: Request, error: Exception) -> Response:
    # Boundary of this process: the cause goes to the log, not to the caller.
    request_id = request.scope.get(request_ids.SCOPE_KEY)
    with request_ids.serving(request_id):
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    response = problem_response(PreceptorError("the gateway failed; see its log"), request.url.path)
    if request_id is not None:
        response.headers[request_ids.HEADER] = request_id
    return response
