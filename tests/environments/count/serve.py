"""Serves the taskset beside it, as `serve.py ADDRESS`; `serve.py` alone prints its rows."""

from __future__ import annotations

import json
import sys

from verifiers.v1.serve import serve_env
from verifiers.v1.utils.loaders import load_taskset, resolve_env_config

CONFIG = {"taskset": {"id": "preceptor_count"}, "agent": {"runtime": {"type": "subprocess"}}}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve_env(max_workers=1, address=sys.argv[1], config_data=CONFIG)
    else:
        for task in load_taskset(resolve_env_config(CONFIG).taskset):
            row = {"prompt": task.data.prompt_text, "task": task.data.model_dump(mode="json")}
            sys.stdout.write(json.dumps(row) + "\n")
