"""The bits: trellis, range coder, streams; the records of parts."""
