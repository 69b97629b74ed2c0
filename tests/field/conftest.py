"""The gateways, people, databases and foreign servers of the services' own tests."""

from ..services.conftest import database_url, postgres, postgres_with_tables
from ..services.corrections.conftest import make_app, new_items, office, people_options, town
from ..services.experts.remote.conftest import serve, student_tokenizer, tokenizer_folder
from ..services.world import gateway_options, sqlite_url, world

__all__ = [
    "database_url",
    "gateway_options",
    "make_app",
    "new_items",
    "office",
    "people_options",
    "postgres",
    "postgres_with_tables",
    "serve",
    "sqlite_url",
    "student_tokenizer",
    "tokenizer_folder",
    "town",
    "world",
]
