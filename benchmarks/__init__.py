"""Measurements behind the claims: runs, rivals, results and reports; README.md lists them."""
