"""Scores of the members of a committee: reward models, policies, judges, and linear rewards trained out of fold.

Members score one after another, so that one model is in memory at a time. Scores of a model are stored in a line per
pair under a hash of the texts, in a file that is named by a hash of the member: a stopped run continues, another run
finds them again, and a member that is changed starts a file of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.devices import open_mesh
from jaxllm.errors import UserError
from jaxllm.evaluate.comparison.answers import PromptRow
from jaxllm.evaluate.comparison.config import JudgingConfig
from jaxllm.evaluate.comparison.verdicts import Pair, judge_pairs
from jaxllm.feedback.calibration import folds_of
from jaxllm.feedback.config import AuditConfig, MemberConfig
from jaxllm.feedback.data import Pairs
from jaxllm.feedback.heads import last_states, out_of_fold, word_counts
from jaxllm.feedback.scores import Member, Scores
from jaxllm.feedback.votes import ABSTAIN, consistent_votes, votes_of_scores
from jaxllm.files import JsonlWriter, expanded, iter_jsonl
from jaxllm.generate import Generator
from jaxllm.job import Job
from jaxllm.model import Model, check_lm, load_with_adapter
from jaxllm.models import Adapter
from jaxllm.models.mesh import model_shardings
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.progress import bar, notice
from jaxllm.text.encoding import Encoded, encode_all, encode_pair, encode_reward_pair
from jaxllm.text.forms import PairRow
from jaxllm.text.rows import Rejected

# Pairs that a model scores together, and then stores.
CHUNK = 256
# Pairs on which the tokenizers of a policy and its reference are compared.
SAMPLE = 100
VOTES = {"a": 1, "b": -1, "tie": 0, None: ABSTAIN}
Score = Callable[[Sequence[PairRow]], list[list[float] | None]]


def read_members(config: AuditConfig, job: Job, pairs: Pairs) -> tuple[list[Member], list[Rejected]]:
    """Collects the members of a committee: those of files, and those that score the pairs now.

    Returns:
        The members, and lines of score files that cannot be used.

    Raises:
        UserError: a file or a model cannot be used, or two members have the same name.
    """
    members, rejected = [], []
    if config.committee.scores is not None:
        scores = Scores(pairs, config.committee.tolerance)
        rejected += scores.read(config.committee.scores, config.data.limit_bad)
        members += scores.members()
    for number, own in enumerate(config.committee.members):
        members += _of_kind(own, number, config, job, pairs, rejected)
    names = [member.key for member in members]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two members have the name {twice[0]!r}", "committee", "rename one of them")
    return members, rejected


def needs_texts(config: AuditConfig) -> bool:
    """Whether a member reads the texts of the pairs."""
    return any(member.kind != "scores" for member in config.committee.members)


def _of_kind(own: MemberConfig, number: int, config: AuditConfig, job: Job, pairs: Pairs, rejected: list[Rejected]
             ) -> list[Member]:
    if own.kind == "scores":
        file, read = str(own.path), Scores(pairs, config.committee.tolerance, own.name)
        rejected += read.read(file, config.data.limit_bad)
        found = list(read.members())
        if len(found) != 1:
            raise UserError(f"the file of member {own.name!r} has scores of {len(found)} members", file,
                            "give it as committee.scores")
        found[0].name, found[0].criterion = own.name, own.criterion or found[0].criterion
        return found
    if own.kind == "judge":
        return [_judge(own, number, config, job, pairs)]
    if own.kind in ("head", "words"):
        scores = _trained(own, config, job, pairs)
    else:
        scores = _scored(own, config, job, pairs)
    if (missing := int(np.isnan(scores[:, 0]).sum())):
        notice(f"member {own.name} abstains on {missing:,} of {len(pairs):,} pairs, which it cannot read")
    return [Member(own.name, own.criterion, votes_of_scores(scores, config.committee.tolerance), scores, own.kind)]


def _folder(config: AuditConfig, job: Job) -> Path:
    folder = job.directory / "members" if config.committee.cache is None else expanded(config.committee.cache)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _load(own: MemberConfig, config: AuditConfig) -> tuple[Model, Adapter | None, str, Any]:
    """Loads the model of a member; returns it with its adapter, what identifies both, and the mesh."""
    mesh = open_mesh(config.mesh)
    model, adapter = load_with_adapter(str(own.model), own.adapter, config.device.param_dtype,
                                       lambda spec: model_shardings(spec, mesh), config.device.quantize)
    identity = fingerprint(model_directory(str(own.model)))
    identity += "" if own.adapter is None else f" + {fingerprint(Path(own.adapter))}"
    identity += f", {config.device.compute_dtype}, {config.device.quantize}, at most {own.max_length} tokens"
    return model, adapter, identity, mesh


def _scored(own: MemberConfig, config: AuditConfig, job: Job, pairs: Pairs) -> np.ndarray:
    """Scores the answers by a reward model or a policy, `[N, 2]`."""
    model, adapter, identity, mesh = _load(own, config)
    # The weights are in memory once: of the model, nothing but tokenizer and shapes is used afterwards.
    generator = Generator(model, dtype=config.device.compute_dtype, mesh=mesh, batch_size=config.batch_size,
                          donate=True)
    limit = own.max_length or model.spec.max_positions
    if own.kind == "reward":
        labels = 0 if model.spec.head is None else model.spec.head.labels
        if labels != 1:
            raise UserError(f"a reward model gives one score, and this model {labels or 'none'}", own.model,
                            "use a reward model, or set the member's kind to judge or dpo")

        def score(rows: Sequence[PairRow]) -> list[list[float] | None]:
            done = encode_all(rows, lambda row: encode_reward_pair(model.tokenizer, row, max_length=limit))
            texts = [(ids, [0] * len(ids)) for pair in done.encoded for ids in pair]
            values = [value for (value,) in generator.classify(texts, adapter=adapter)] if texts else []
            return _in_place(len(rows), done.indices, values)
    else:
        check_lm(str(own.model), own.adapter, "score answers as a policy")

        def whole(row: PairRow) -> Encoded:
            encoded = encode_pair(model.tokenizer, row, start=model.start, max_length=limit)
            if encoded.cut:
                raise UserError("an answer is longer than max_length")
            return encoded

        reference, base = generator, None
        if own.reference is not None:
            other, _, more, _ = _load(MemberConfig(own.name, "head", own.reference), config)
            sample = [str(answer) for row in (pairs.rows or [])[:SAMPLE] for answer in (row.chosen, row.rejected)]
            if any(other.tokenizer.encode(text) != model.tokenizer.encode(text) for text in sample):
                raise UserError("policy and reference have different tokenizers", own.reference,
                                "give the model that the policy was trained from")
            reference = Generator(other, dtype=config.device.compute_dtype, mesh=mesh, batch_size=config.batch_size,
                                  donate=True)
            identity = f"{identity} / {more}"
        identity += f", beta {own.beta!r}"

        def score(rows: Sequence[PairRow]) -> list[list[float] | None]:
            done = encode_all(rows, whole)
            texts = [(text.ids[:encoded.prompt_length], text.ids[encoded.prompt_length:]) for encoded in done.encoded
                     for text in encoded.texts]
            values = [own.beta * (ours.logprob - theirs.logprob) for ours, theirs in zip(
                generator.score(texts, adapter=adapter), reference.score(texts, adapter=base), strict=True)] \
                if texts else []
            return _in_place(len(rows), done.indices, values)

    return _stored(own.name, _folder(config, job), f"{own.kind}: {identity}", pairs, score)


def _in_place(count: int, indices: Sequence[int], values: Sequence[float]) -> list[list[float] | None]:
    found: list[list[float] | None] = [None] * count
    for place, index in enumerate(indices):
        found[index] = list(values[2 * place:2 * place + 2])
    return found


def _stored(name: str, folder: Path, identity: str, pairs: Pairs, score: Score) -> np.ndarray:
    """Scores the pairs of which a file has no scores yet, and adds them to it."""
    path = folder / f"scores-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.jsonl"
    known: dict[str, Any] = {line["texts"]: line["scores"] for line in iter_jsonl(path)}
    rows = pairs.rows or []
    open_ = list({digest: number for number, digest in enumerate(pairs.digests) if digest not in known}.values())
    with JsonlWriter(path) as writer, bar(len(pairs), name, "pairs", done=len(pairs) - len(open_)) as show:
        for start in range(0, len(open_), CHUNK):
            chunk = open_[start:start + CHUNK]
            for number, both in zip(chunk, score([rows[number] for number in chunk]), strict=True):
                known[pairs.digests[number]] = both
                writer.write({"texts": pairs.digests[number], "scores": both})
            show(len(pairs) - len(open_) + start + len(chunk))
    return np.array([known[digest] or [np.nan] * 2 for digest in pairs.digests])


def _trained(own: MemberConfig, config: AuditConfig, job: Job, pairs: Pairs) -> np.ndarray:
    """Scores the answers out of fold by a linear reward that is trained on their labels, `[N, 2]`."""
    scores, rows = np.full((len(pairs), 2), np.nan), pairs.rows or []
    if own.kind == "words":
        (chosen, rejected), used = word_counts(rows), np.arange(len(pairs))
    else:
        model, adapter, identity, _ = _load(own, config)
        if adapter is not None:
            raise UserError("a frozen model has no adapter", "adapter", "merge it with jaxllm convert first")
        limit = own.max_length or model.spec.max_positions
        done = encode_all(rows, lambda row: encode_reward_pair(model.tokenizer, row, max_length=limit))
        if not done.encoded:
            return scores
        states = last_states(model, done.encoded, _folder(config, job), identity, config.batch_size,
                             config.device.compute_dtype)
        chosen, rejected = states[:, 0].astype(np.float64), states[:, 1].astype(np.float64)
        used = np.array(done.indices)
    fold = folds_of(pairs.clusters[used], config.folds, config.seed)
    if len(np.unique(fold)) < 2:
        raise UserError(f"member {own.name!r} is trained out of fold, which needs two prompts or more", "data.path")
    scores[used] = out_of_fold(chosen, rejected, fold)
    return scores


def _judge(own: MemberConfig, number: int, config: AuditConfig, job: Job, pairs: Pairs) -> Member:
    """Lets a judge compare both answers of each pair, in both orders."""
    judging = JudgingConfig(own.judge_config, own.verdict, config.device, config.seed)
    shown = [Pair(PromptRow(0, name, row.prompt), _plain(row.chosen), _plain(row.rejected))
             for name, row in zip(pairs.ids, pairs.rows or [], strict=True)]
    file = f"member{number}.jsonl"
    verdicts = asdict(judge_pairs(judging, job, shown, file))
    lines = list(iter_jsonl(job.directory / file))
    orders = np.array([[VOTES[line["verdict"]] for line in both] for both in zip(lines[::2], lines[1::2], strict=True)],
                      np.int8)
    votes, scores = consistent_votes(orders[:, 0], orders[:, 1]), None
    if judging.form == "rating" or own.verdict.disagreement == "mean":
        scores = np.array([_mean_ratings(both) for both in zip(lines[::2], lines[1::2], strict=True)])
        votes = votes_of_scores(scores, config.committee.tolerance)
    return Member(own.name, own.criterion, votes, scores, own.kind, orders, verdicts)


def _mean_ratings(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Averages the ratings, or the probabilities, of both orders; NaN if one is missing."""
    given = [line["scores"] for line in lines]
    if None in given:
        return [np.nan, np.nan]
    return [float(np.mean([own[side] for own in given])) for side in "ab"]


def _plain(answer: Any) -> str:
    return answer if isinstance(answer, str) else "\n".join(f"{turn['role']}: {turn['content']}" for turn in answer)
