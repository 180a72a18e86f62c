"""Tokenizers and chat templates, data files as checked rows, padded and packed batches."""

from jaxllm.text.batches import bucket, bucket_sizes, pack, pad_right
from jaxllm.text.examples import Example, encode_example
from jaxllm.text.rows import Message, NonEmpty, Rejected, Row, RowSet, iter_rows, read_rows
from jaxllm.text.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "Example",
    "Message",
    "NonEmpty",
    "Rejected",
    "Row",
    "RowSet",
    "Tokenizer",
    "bucket",
    "bucket_sizes",
    "encode_example",
    "iter_rows",
    "load_tokenizer",
    "pack",
    "pad_right",
    "read_rows",
]
