"""What tasks still do: metrics, losses, agreement, intervals.

Everything here needs the ``eval`` extra (torch, transformers, sacrebleu, scikit-learn, rouge-score,
nltk); nothing outside this folder does.
"""
