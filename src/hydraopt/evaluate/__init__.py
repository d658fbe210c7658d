"""Score tasks: metrics, losses, agreement.

Everything here needs the ``eval`` extra (torch, transformers, sacrebleu, rouge-score, nltk);
nothing outside this folder does.
"""
