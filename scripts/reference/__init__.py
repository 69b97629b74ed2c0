"""The reference pages, made from the code: commands, settings, routes, errors, Python modules.

Pages by their path below `docs/`. The site's build asks for them (`scripts/site_hook.py`), so they
are never out of date and never committed.
"""

from __future__ import annotations

from reference import commands, configuration, errors, http_api, measured, python_api


def pages() -> dict[str, str]:
    """Every generated page: path below `docs/` to Markdown."""
    return {
        "reference/cli.md": commands.page(),
        "reference/deployment.md": configuration.deployment_page(),
        "reference/services.md": configuration.services_page(),
        "reference/run-file.md": configuration.run_file_page(),
        "reference/run.md": configuration.run_page(),
        "reference/gateway-api.md": http_api.gateway_page(),
        "reference/expert-api.md": http_api.expert_page(),
        "reference/errors.md": errors.page(),
        "reference/measured.md": measured.page(),
        **python_api.pages(),
    }
