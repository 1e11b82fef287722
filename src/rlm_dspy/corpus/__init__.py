"""Files, folders, globs, URLs and standard input, read into one context that programs can hand around safely."""

from rlm_dspy.corpus.corpus import Corpus, Document, Skipped
from rlm_dspy.corpus.reading import read

__all__ = ["Corpus", "Document", "Skipped", "read"]
