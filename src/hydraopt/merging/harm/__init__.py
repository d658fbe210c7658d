"""Bytes shared out by measured harm: trials, curves, and the prices that follow from them."""
