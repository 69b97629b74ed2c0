"""The gateways, people and databases of the services' own tests."""

from ..services.conftest import database_url, postgres
from ..services.corrections.conftest import make_app, new_items, office, people_options, town
from ..services.world import gateway_options, sqlite_url, world

__all__ = [
    "database_url",
    "gateway_options",
    "make_app",
    "new_items",
    "office",
    "people_options",
    "postgres",
    "sqlite_url",
    "town",
    "world",
]
