"""What goes in: tokenizers and chat templates, rows read and checked, rows into padded or packed batches."""

from jaxllm.text.batches import bucket, bucket_sizes, pack, pad_left, pad_right
from jaxllm.text.rows import Message, Rejected, RowSet, read_rows
from jaxllm.text.tokenizer import TextStream, Tokenizer, load_tokenizer

__all__ = [
    "Message",
    "Rejected",
    "RowSet",
    "TextStream",
    "Tokenizer",
    "bucket",
    "bucket_sizes",
    "load_tokenizer",
    "pack",
    "pad_left",
    "pad_right",
    "read_rows",
]
