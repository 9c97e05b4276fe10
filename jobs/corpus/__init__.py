"""What the learning half reads of an archive: the texts of chunks and the decoded mails."""

from jobs.corpus.reading import Corpus, open_corpus

__all__ = ["Corpus", "open_corpus"]
