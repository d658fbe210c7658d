"""An OpenAI-compatible server of a base model and the tasks of bundles, for one machine.

``hydraopt serve`` is the way in; docs/serving.md says how to use it. engine answers prompts, api
speaks HTTP, server opens the port.
"""
