"""What benchmarks/quality/methods.py is made of: rows are built, peers asked, scores and tuning."""
