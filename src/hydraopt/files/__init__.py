"""Files in and out: regular ones, replaced in one step."""
