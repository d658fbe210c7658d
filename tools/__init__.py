"""Scripts that write pages from the code; each has ``--check``, which changes nothing."""
