"""What the claims rest on: runs, rivals, results and reports; README.md is the map."""
