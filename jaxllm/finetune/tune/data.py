"""From rows of a data file to groups of texts with their values."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.errors import UserError
from jaxllm.finetune.texts import Text, completion_text, joined_text, scored_text
from jaxllm.finetune.tune.config import Config, TuneConfig
from jaxllm.finetune.tune.groups import DataSet, FixedGroups, UnpairedGroups, Values
from jaxllm.job import Job
from jaxllm.model import Model
from jaxllm.ops.pairs import ld_token_weights
from jaxllm.ops.preference_losses import SORTED
from jaxllm.progress import notice
from jaxllm.text.encoding import encode_all, encode_completion, encode_pair, encode_reward_pair, encode_text
from jaxllm.text.forms import class_number
from jaxllm.text.preferences import Kind, cluster_of, preference_rows, split_by_prompt
from jaxllm.text.rows import Rejected

FORMS: dict[str, Kind] = {"sft": "sft", "pairs": "paired", "unpaired": "unpaired", "reward": "paired",
                          "classify": "classify"}

# The most classes that are counted from labels that are numbers: a larger one is an id or a date.
MOST_CLASSES = 10_000


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a data file.

    Attributes:
        rows: usable rows.
        lines: line of each.
        rejected: lines that cannot be used.
        source: the file.
        labels: names of the classes in order; empty unless the method is classify.
    """

    rows: list[Any]
    lines: list[int]
    rejected: list[Rejected]
    source: str
    labels: list[str]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Rows as groups of texts.

    Attributes:
        data: the groups.
        rows, ids, clusters: row, id and prompt of every group.
        cut: tokens that are cut off, of every group.
        dropped: rows that cannot be encoded or are too long.
    """

    data: DataSet
    rows: list[Any]
    ids: list[Any]
    clusters: list[str]
    cut: list[int]
    dropped: list[Rejected]

    @property
    def truncated(self) -> int:
        """Number of groups with a truncated text."""
        return sum(tokens > 0 for tokens in self.cut)


def read(config: Config, job: Job | None) -> tuple[Rows, Rows | None]:
    """Reads the rows for training, and those of `held_back.path`.

    Raises:
        UserError: a file cannot be read, too many of its rows cannot be used, or a class is not among the labels.
    """
    form, data = FORMS[config.kind], config.data
    found = preference_rows(data.path, form, limit=data.limit, limit_bad=data.limit_bad,
                            rejected_path=None if job is None else job.rejected_path)
    labels = labels_of(config, found.rows, data.path)
    rows = Rows(found.rows, found.lines, found.rejected, data.path, labels)
    if config.held_back.path is None:
        return rows, None
    held_back = preference_rows(config.held_back.path, form, limit_bad=data.limit_bad)
    prompts = set(map(cluster_of, found.rows))
    if shared := sum(cluster_of(row) in prompts for row in held_back.rows):
        print(f"jaxllm: {shared} held-back rows of {config.held_back.path} have a prompt of the rows for training",
              file=sys.stderr)
    return rows, Rows(held_back.rows, held_back.lines, held_back.rejected, config.held_back.path, labels)


def labels_of(config: TuneConfig, rows: Sequence[Any], where: str = "rows") -> list[str]:
    """Returns the classes in order: those of the config, or all numbers up to the largest, or all names, sorted.

    Empty unless the method is classify.

    Raises:
        UserError: there are fewer than two, or a label is too large for the number of a class.
    """
    if config.kind != "classify":
        return []
    found = [row.label for row in rows]
    if config.labels is not None:
        labels = [str(label) for label in config.labels]
    elif all(isinstance(label, int) for label in found):
        if (largest := max(map(int, found))) >= MOST_CLASSES:
            raise UserError(f"a label is {largest}, and classes have numbers from 0 to {MOST_CLASSES - 1}", where,
                            "number the classes from 0, or list them in labels")
        labels = [str(label) for label in range(largest + 1)]
    else:
        labels = sorted(set(map(str, found)))
    if len(labels) < 2:
        raise UserError(f"the only class is {labels[0]!r}" if labels else "there is no class", where,
                        "a classifier needs two classes")
    return labels


def encode(config: TuneConfig, model: Model, rows: Rows, limit_bad: float) -> Encoded:
    """Encodes rows; one that cannot be encoded, or is too long, is dropped with its reason.

    Args:
        config: settings.
        model: its tokenizer and context window.
        rows: the rows.
        limit_bad: share of rows that may be refused; those that are too long do not count.

    Raises:
        UserError: no row is left, or too few.
    """
    window = model.spec.max_positions
    longest = min(config.lengths.max_length or window, window)
    done = encode_all(rows.rows, _ENCODERS[config.kind](config, model, rows.labels, longest))
    reason = done.refused | {i: error.what for i, error in done.too_long.items()}
    raw = lambda row: json.dumps(dataclasses.asdict(row), ensure_ascii=False, default=str)
    dropped = [Rejected(rows.source, rows.lines[i], why, raw(rows.rows[i])) for i, why in sorted(reason.items())]
    if not done.encoded:
        raise UserError(f"no row can be used; the first: {dropped[0]}", rows.source,
                        "raise lengths.max_length" if done.too_long else None)
    if len(done.refused) > limit_bad * len(rows.rows):
        raise UserError(f"{len(done.refused)} of {len(rows.rows)} rows cannot be encoded; one of them: line "
                        f"{rows.lines[min(done.refused)]}: {done.refused[min(done.refused)]}", rows.source,
                        "fix these rows, or raise data.limit_bad")
    if done.too_long:
        print(f"jaxllm: {len(done.too_long)} of {len(rows.rows)} rows of {rows.source} do not fit into {longest} "
              "tokens (lengths.max_length) and are dropped; rejected.jsonl has the reasons", file=sys.stderr)
    if other := sum(not made.prefix for made in done.encoded):
        notice(f"{other:,} of {len(rows.rows):,} prompts of {rows.source} have other tokens with their completions "
               "than alone, so that training and generation read different ones; a prompt that ends with a blank or "
               "within a word does that")
    encoded, cut = [made.parts for made in done.encoded], [made.cut for made in done.encoded]
    chosen = [rows.rows[i] for i in done.indices]
    clusters = [cluster_of(row) for row in chosen]
    values = _values(config, chosen, rows.labels)
    for name, used in (("label_probability", "label_probability" in values), ("weight", np.ptp(values["weight"]) > 0)):
        if used and (sorting := SORTED & config.losses.keys()):
            raise UserError(f"{', '.join(sorting)} sorts all pairs, so that {name} does not apply to it", rows.source,
                            "remove the column, or choose another loss")
    if config.kind == "pairs" and any(row.margin for row in chosen):
        notice(f"the margins of {rows.source} are read by method reward only")
    data: DataSet
    if config.objective.mismatched:
        data = UnpairedGroups(encoded, values, clusters, longest)
    else:
        if config.kind == "unpaired":
            encoded = [(joined_text(prompt, ids, mask, longest),) for prompt, ids, mask in encoded]
        data = FixedGroups(encoded, values, clusters)
    return Encoded(data, chosen, [row.id for row in chosen], clusters, cut, dropped)


def _values(config: TuneConfig, rows: Sequence[Any], labels: list[str]) -> Values:
    """Collects the values of rows that the loss reads."""
    column = lambda name: np.array([getattr(row, name) for row in rows], np.float32)
    values = {"weight": column("weight")}
    if config.kind in ("pairs", "reward"):
        if (soft := column("label_probability")).min() < 1:
            values["label_probability"] = soft
    if config.kind == "reward":
        values["margin"] = column("margin")
    if config.kind == "unpaired":
        right = column("label_probability")
        values["desirable"] = np.where(column("label") > 0, right, 1 - right).astype(np.float32)
    if config.kind == "classify":
        values["label"] = np.array([_class_number(row.label, labels) for row in rows], np.float32)
    return values


def _class_number(label: int | str, labels: Sequence[str]) -> int:
    """Returns the number of a label's class; a `UserError` where there is none."""
    number = class_number(label, labels, len(labels))
    if number is None:
        raise UserError(f"the class {label!r} is not one of {', '.join(labels[:20])}")
    return number


class Made(NamedTuple):
    """An encoded row.

    Attributes:
        parts: its group, or what the group is made of.
        cut: tokens that are cut off.
        prefix: see `prompt_is_prefix` of `text.encoding.Encoded`.
    """

    parts: Any
    cut: int = 0
    prefix: bool = True


Encoder = Callable[[Any], Made]


def _sft(config: TuneConfig, model: Model, labels: list[str], longest: int) -> Encoder:
    def encode(row: Any) -> Made:
        made = encode_completion(model.tokenizer, row, start=model.start, max_length=longest,
                                 max_prompt_length=config.lengths.max_prompt_length, turns=config.turns)
        text = completion_text(made.texts[0].ids, made.texts[0].loss_mask)
        return Made((text,), made.cut, made.prompt_is_prefix)

    return encode


def _pairs(config: TuneConfig, model: Model, labels: list[str], longest: int) -> Encoder:
    # ORPO learns the whole chosen text by heart, prompt and all.
    with_prompt, alpha = "orpo" in config.losses, config.preference.ld_alpha

    def encode(row: Any) -> Made:
        made = encode_pair(model.tokenizer, row, start=model.start, max_length=longest,
                           max_prompt_length=config.lengths.max_prompt_length)
        texts = [completion_text(made.texts[0].ids, made.texts[0].loss_mask, with_prompt=with_prompt),
                 completion_text(made.texts[1].ids, made.texts[1].loss_mask,
                                 with_prompt=with_prompt and row.label_probability < 1)]
        if alpha < 1:
            texts = _ld_weighted(texts, alpha)
        return Made(tuple(texts), made.cut, made.prompt_is_prefix)

    return encode


def _ld_weighted(texts: Sequence[Text], alpha: float) -> list[Text]:
    """Weights tokens beyond the length of the shorter completion by alpha (LD-DPO, 2409.06411).

    They count in the length that some losses divide by even if alpha is 0: a weight of 0 marks tokens outside of the
    completion.
    """
    counts = [int((text.weights > 0).sum()) for text in texts]
    weighted = []
    for text, own, other in zip(texts, counts, counts[::-1], strict=True):
        factors = ld_token_weights(np.cumsum(text.weights > 0) - 1, own, other, alpha)
        weighted.append(dataclasses.replace(text, weights=text.weights * np.maximum(factors, np.float32(1e-30))))
    return weighted


def _unpaired(config: TuneConfig, model: Model, labels: list[str], longest: int) -> Encoder:
    def encode(row: Any) -> Made:
        made = encode_completion(model.tokenizer, row, start=model.start, max_length=longest,
                                 max_prompt_length=config.lengths.max_prompt_length)
        text, stop = made.texts[0], made.prompt_length
        return Made((text.ids[:stop], text.ids[stop:], text.loss_mask[stop:]), made.cut, made.prompt_is_prefix)

    return encode


def _reward(config: TuneConfig, model: Model, labels: list[str], longest: int) -> Encoder:
    def encode(row: Any) -> Made:
        texts = encode_reward_pair(model.tokenizer, row, max_length=longest)
        return Made(tuple(scored_text(model.spec, ids) for ids in texts))

    return encode


def _classify(config: TuneConfig, model: Model, labels: list[str], longest: int) -> Encoder:
    def encode(row: Any) -> Made:
        _class_number(row.label, labels)
        ids, types = encode_text(model.tokenizer, row.text, row.pair, max_length=longest)
        return Made((scored_text(model.spec, ids, types),))

    return encode


_ENCODERS: dict[str, Callable[[TuneConfig, Model, list[str], int], Encoder]] = {
    "sft": _sft, "pairs": _pairs, "unpaired": _unpaired, "reward": _reward, "classify": _classify}


def split(encoded: Encoded, share: float) -> tuple[Encoded, Encoded | None]:
    """Holds back a share of the groups, so that no prompt is on both sides; None where nothing is held back.

    The split depends on the prompts alone, not on the seed of a run: runs with several seeds are evaluated on the same
    rows.
    """
    if not share:
        return encoded, None
    sides = split_by_prompt(encoded.rows, share)
    if not all(sides):
        raise UserError("all rows have the same prompt, so that none can be held back", "held_back.share",
                        "set it to 0, or give held_back.path")
    train, held_back = (_select(encoded, chosen) for chosen in sides)
    return train, dataclasses.replace(held_back, dropped=[])


def _select(encoded: Encoded, chosen: Sequence[int]) -> Encoded:
    pick = lambda values: [values[i] for i in chosen]
    data: Any = encoded.data
    values = {name: value[list(chosen)] for name, value in data.values.items()}
    field = "groups" if isinstance(data, FixedGroups) else "texts"
    part = dataclasses.replace(data, values=values, clusters=pick(data.clusters), **{field: pick(getattr(data, field))})
    return dataclasses.replace(encoded, data=part, rows=pick(encoded.rows), ids=pick(encoded.ids),
                               clusters=pick(encoded.clusters), cut=pick(encoded.cut))
