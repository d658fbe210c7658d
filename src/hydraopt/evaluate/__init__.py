"""Evaluation: what a bundle's tasks still do, on text, against the adapters they came from.

Everything here needs the ``eval`` extra (torch, transformers, sacrebleu, scikit-learn, rouge-score,
nltk); nothing outside this folder does.
"""
