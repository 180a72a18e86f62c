"""Tokenizers and chat templates, data files as checked rows, padded and packed batches."""

from jaxllm.text.batches import bucket, bucket_sizes, pack, pad_right
from jaxllm.text.conversions import (
    pairs_from_ranks,
    pairs_from_scores,
    pairs_from_unpaired,
    ranks_from_pairs,
    scores_from_pairs,
    unpaired_from_pairs,
)
from jaxllm.text.encoding import (
    Encoded,
    EncodedRows,
    TooLong,
    encode_all,
    encode_completion,
    encode_pair,
    encode_reward_pair,
    encode_text,
)
from jaxllm.text.examples import Example, encode_example
from jaxllm.text.preferences import (
    ClassifyRow,
    PairRow,
    PreferenceRows,
    SftRow,
    UnpairedRow,
    preference_rows,
    split_by_prompt,
)
from jaxllm.text.rows import Message, NonEmpty, Rejected, Row, RowSet, iter_rows, read_rows
from jaxllm.text.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "ClassifyRow",
    "Encoded",
    "EncodedRows",
    "Example",
    "Message",
    "NonEmpty",
    "PairRow",
    "PreferenceRows",
    "Rejected",
    "Row",
    "RowSet",
    "SftRow",
    "Tokenizer",
    "TooLong",
    "UnpairedRow",
    "bucket",
    "bucket_sizes",
    "encode_all",
    "encode_completion",
    "encode_example",
    "encode_pair",
    "encode_reward_pair",
    "encode_text",
    "iter_rows",
    "load_tokenizer",
    "pack",
    "pad_right",
    "pairs_from_ranks",
    "pairs_from_scores",
    "pairs_from_unpaired",
    "preference_rows",
    "ranks_from_pairs",
    "read_rows",
    "scores_from_pairs",
    "split_by_prompt",
    "unpaired_from_pairs",
]
