"""Files in and out, here and in stores; replaced in one step."""
