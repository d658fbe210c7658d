"""A base model with factors on it; which modules matter to it."""
