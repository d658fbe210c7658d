"""Add, remove and refresh tasks; other bytes stay."""
