"""Read files, folders, globs, addresses and standard input into one context that is safe to pass around."""

from rlm_dspy.corpus.corpus import Corpus, Document, Skipped
from rlm_dspy.corpus.reading import read

__all__ = ["Corpus", "Document", "Skipped", "read"]
