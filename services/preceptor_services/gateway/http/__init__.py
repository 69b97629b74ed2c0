"""Shared by all routes: keys, bodies, problem details, middleware and the OpenAPI page."""
