"""Documents looked up instead of learned: BM25, as a comparison."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from jaxllm.errors import UserError


class Retriever:
    """Finds the document that shares the rarest words with a question (BM25; Robertson and Zaragoza, 2009).

    Args:
        documents: their texts.

    Raises:
        UserError: the library is not installed.
    """

    def __init__(self, documents: Sequence[str]):
        try:
            import bm25s
        except ImportError:
            raise UserError("the library for BM25 is not installed", "compare",
                            "pip install 'jaxllm[retrieval]'") from None
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it speaks to the user of every index otherwise
        self._documents = list(documents)
        self._words = lambda texts: bm25s.tokenize(list(texts), stopwords=None, show_progress=False)
        self._index = bm25s.BM25()
        self._index.index(self._words(documents), show_progress=False)

    def best(self, questions: Sequence[str]) -> list[str]:
        """The best document of every question; of equally good ones the first."""
        if not questions:
            return []
        found, _ = self._index.retrieve(self._words(questions), k=1, show_progress=False)
        return [self._documents[int(one)] for (one,) in found]
