"""Read, write and replace files, on disk and in stores."""
