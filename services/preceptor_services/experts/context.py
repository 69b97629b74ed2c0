"""What `preceptor_clients.context` has, under the name that experts of this package know."""

from preceptor_clients.context import Context, build_context, find_template

__all__ = ["Context", "build_context", "find_template"]
