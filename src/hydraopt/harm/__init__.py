"""Measure which answers a merge changes, and reduce them.

The numbers of prompts and tokens are in hydraopt.merging.look.HarmSettings.
"""
