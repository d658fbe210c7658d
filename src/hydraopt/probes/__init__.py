"""Read probes for stereotypes, and count the results.

Nothing here runs a model: files become items, and log-likelihoods become counts with intervals.
:mod:`hydraopt.evaluate.probing` puts the two together.
"""
