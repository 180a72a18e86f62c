"""Tokenizers and chat templates, data files as checked rows, padded and packed batches."""

from jaxllm.text.batches import bucket, bucket_sizes, pack, pad_left, pad_right
from jaxllm.text.rows import Message, NonEmpty, Rejected, Row, RowSet, iter_rows, read_rows
from jaxllm.text.tokenizer import TextStream, Tokenizer, load_tokenizer

__all__ = [
    "Message",
    "NonEmpty",
    "Rejected",
    "Row",
    "RowSet",
    "TextStream",
    "Tokenizer",
    "bucket",
    "bucket_sizes",
    "iter_rows",
    "load_tokenizer",
    "pack",
    "pad_left",
    "pad_right",
    "read_rows",
]
