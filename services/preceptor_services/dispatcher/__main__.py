"""`python -m preceptor_services.dispatcher --config preceptor.toml`."""

import typer

from preceptor_services.dispatcher.command import dispatcher_command

typer.run(dispatcher_command)
