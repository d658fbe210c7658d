"""Score the tasks of a bundle against the originals.

Everything here needs the ``eval`` extra (torch, transformers, sacrebleu, rouge-score, nltk);
nothing outside this folder does.
"""
