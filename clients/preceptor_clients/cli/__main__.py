"""`python -m preceptor_clients.cli`."""

from preceptor_clients.cli.main import main

main()
