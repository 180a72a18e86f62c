"""Retrieval baseline: BM25."""

from __future__ import annotations

from collections.abc import Sequence

from jaxllm.errors import UserError


class Retriever:
    """BM25 index over documents (Robertson and Zaragoza, 2009).

    Args:
        documents: texts to index.

    Raises:
        UserError: the library is not installed.
    """

    def __init__(self, documents: Sequence[str]):
        try:
            import bm25s
        except ImportError:
            raise UserError("the library for BM25 is not installed", "compare",
                            "pip install 'jaxllm[retrieval]'") from None
        self._documents = list(documents)
        self._tokenize = lambda texts: bm25s.tokenize(list(texts), stopwords=None, show_progress=False)
        self._index = bm25s.BM25()
        self._index.index(self._tokenize(documents), show_progress=False)

    def best(self, questions: Sequence[str]) -> list[str]:
        """Returns the highest-scoring document of every question; the first of equals."""
        if not questions:
            return []
        best, _ = self._index.retrieve(self._tokenize(questions), k=1, show_progress=False)
        return [self._documents[int(number)] for (number,) in best]
