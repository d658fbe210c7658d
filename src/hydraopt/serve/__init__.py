"""Serve a base model and its tasks over HTTP.

``hydraopt serve`` is the way in; docs/reference/serving.md says how to use it. engine answers
prompts, api speaks HTTP, server opens the port.
"""

from hydraopt.extras import require

require("uvicorn", "fastapi", "prometheus_client")
