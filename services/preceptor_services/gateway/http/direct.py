"""Calls simple routes without the framework's machinery, which costs more than their own work.

A route is simple if its path has no parameters, each of its dependencies takes the request alone,
and it returns a `Response`. Its dependencies run in their order, then the route itself; body limit
and problem details are the same as for the other routes. The framework still describes these routes
on the OpenAPI page, and answers for other methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, get_type_hints

from fastapi import FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from preceptor_services.gateway.http.middleware import BodyLimit, OverLimit
from preceptor_services.gateway.http.problems import response_to


class _Simple(NamedTuple):
    """One route: its own function, and what fills each of its arguments."""

    path: str
    endpoint: Callable[..., Awaitable[Response]]
    request_name: str | None
    arguments: tuple[tuple[str, Callable[[Request], Awaitable[Any]]], ...]

    async def __call__(self, request: Request) -> Response:
        given: dict[str, Any] = {} if self.request_name is None else {self.request_name: request}
        for name, dependency in self.arguments:
            given[name] = await dependency(request)
        return await self.endpoint(**given)


class DirectRoutes:
    """The simple routes of an application."""

    def __init__(self, app: FastAPI, routes: Iterable[BaseRoute], limit: BodyLimit) -> None:
        self._app = app
        self._limit = limit
        self._routes: dict[tuple[str, str], _Simple] = {}
        for route in routes:
            simple = _simple(route) if isinstance(route, APIRoute) else None
            if simple is not None and isinstance(route, APIRoute):
                self._routes |= {(method, route.path): simple for method in route.methods or ()}

    def serves(self, scope: Scope) -> bool:
        """Whether the request is to one of these routes."""
        return scope["type"] == "http" and (scope["method"], scope["path"]) in self._routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes[scope["method"], scope["path"]]
        scope["app"], scope["route"] = self._app, route
        request = Request(scope, self._limit.counted(receive), send)
        try:
            response = await self._respond(route, request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _respond(self, route: _Simple, request: Request) -> Response:
        try:
            refused = self._limit.announced(request.scope)
            if refused is not None:
                raise refused
            return await route(request)
        except OverLimit:
            return response_to(request, self._limit.too_large())
        except ClientDisconnect:
            raise
        except Exception as error:
            # The outermost handler, as the framework's own is for the other routes.
            return response_to(request, error)


def _simple(route: APIRoute) -> _Simple | None:
    whole = route.dependant
    returns = get_type_hints(route.endpoint).get("return")
    if "{" in route.path or returns is not Response or _own_parameters(whole):
        return None
    if not all(_takes_request_alone(dependency) for dependency in whole.dependencies):
        return None
    return _Simple(
        path=route.path,
        endpoint=route.endpoint,
        request_name=whole.request_param_name,
        arguments=tuple((str(d.name), _required(d)) for d in whole.dependencies),
    )


def _own_parameters(dependant: Dependant) -> Sequence[Any]:
    """Parameters that the framework would read from the request."""
    return (
        *(*dependant.path_params, *dependant.query_params, *dependant.header_params),
        *(*dependant.cookie_params, *dependant.body_params),
    )


def _takes_request_alone(dependency: Dependant) -> bool:
    return (
        dependency.request_param_name == "request"
        and not dependency.dependencies
        and not _own_parameters(dependency)
    )


def _required(dependency: Dependant) -> Callable[[Request], Awaitable[Any]]:
    assert dependency.call is not None, "a dependency is a callable"
    return dependency.call
