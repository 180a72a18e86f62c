"""Settings of `jaxllm clean`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxllm.config import DataConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig

Method = Literal[
    "sac", "llm_judge_r", "llm_judge_f", "rwgap_r", "rwgap_f", "vote_all_r", "vote_all_f", "vote_maj_r", "vote_maj_f",
    "tag_cmp", "tag_div", "ifd_r", "ifd_gap_r", "ifd_gap_f", "none", "random_r", "random_f", "vote_full",
    "small_loss_r", "small_loss_f", "confident_r", "confident_f", "weighted_r", "weighted_f", "calibrated_r",
    "calibrated_f", "soft_votes", "soft_calibrated", "weight_votes", "margins", "smooth"]


# Issues that an audit finds in pairs.
DROPPED = ("duplicate", "near_duplicate", "contradiction", "both", "contained", "roles", "overlap", "near_overlap")


@dataclass(frozen=True)
class ActionsConfig:
    """What Source-Aware Cleaning does with each source.

    Args:
        mislabeled: source 1.
        bad: sources 5 and 6; unpaired makes two undesirable rows for KTO of a pair.
        disagreement: sources 2, 3 and 4, which the paper keeps; soft sets the share of votes as label probability,
            reweight multiplies the weight by it.
    """

    mislabeled: Literal["flip", "remove", "keep"] = "flip"
    bad: Literal["remove", "keep", "unpaired"] = "remove"
    disagreement: Literal["keep", "soft", "reweight", "remove"] = "keep"


@dataclass(frozen=True)
class DifficultyConfig:
    """Instruction-following difficulty: perplexity of an answer after its prompt, divided by that without it.

    Args:
        model: model that computes it.
        path: file with rows {id, chosen, rejected} instead; null is an answer without a difficulty.
        answer_tokens: the most tokens of the prompt and of an answer.
        batch_size: texts scored together.
    """

    model: str | None = None
    path: str | None = None
    answer_tokens: int = 512
    batch_size: int = tunable(32)

    def __post_init__(self):
        check(self.model is None or self.path is None, "path", "does not go with a model", "give one of them")
        check(self.answer_tokens >= 1, "answer_tokens", f"must be 1 or more, got {self.answer_tokens}")
        check(self.batch_size >= 1, "batch_size", f"must be 1 or more, got {self.batch_size}")


@dataclass(frozen=True)
class Config:
    """Cleans preference data: flips or removes labels, softens or weighs them, by the findings of jaxllm audit.

    Writes cleaned.jsonl, in the order of the rows, with their texts untouched, and ledger.jsonl, from which --replay
    makes the same cleaned.jsonl again. Flips with an estimated precision below one half are refused: such rows stay
    as they are, and a label probability does not fall below one half.

    Args:
        data: the rows that were audited.
        out: directory for the results.
        method: sac (Source-Aware Cleaning), one of PrefCleanBench's, or a baseline; see docs/feedback.md.
        audit: the --out of jaxllm audit on these rows.
        action: action for flagged pairs; null is that in the method's name.
        actions: actions of sac by source.
        fraction: share of the pairs for methods that take the lowest fraction, and for random_r and random_f without an
            audit.
        keep: pairs that tag_cmp and tag_div keep.
        count: pairs for random_r and random_f; null is as many as sac flips or removes with this audit.
        member: member of the audit for llm_judge_r and llm_judge_f; null is the only one.
        margins: raw rewards, for members of one scale, or standardized ones, for rwgap.
        epsilon: label smoothing of smooth.
        ifd: instruction-following difficulty for ifd methods.
        drop: issues of the data check, which the audit has to search, by which rows are removed, such as duplicate or
            contradiction.
        answers: file of people's answers, rows {id, answer}, such as a filled review.jsonl: chosen keeps a pair,
            rejected flips it, both_bad removes it, others set its label probability to 0.5; the answer of more than
            half counts.
        truth: file with rows {id, flipped}, for precision and recall of the detection.
        force: do flips, and label probabilities below one half, that are refused otherwise.
        replay: ledger of another run on these rows; makes its cleaned.jsonl again, and nothing is decided.
        device: number formats of a model for ifd.
        seed: base of all random draws.
    """

    data: DataConfig
    out: Path
    method: Method | None = None
    audit: str | None = None
    action: Literal["flip", "remove", "soft", "reweight", "margin", "unpaired"] | None = None
    actions: ActionsConfig = field(default_factory=ActionsConfig)
    fraction: float = 0.1
    keep: int = 6000
    count: int | None = None
    member: str | None = None
    margins: Literal["raw", "standardized"] = "raw"
    epsilon: float = 0.1
    ifd: DifficultyConfig = field(default_factory=DifficultyConfig)
    drop: list[str] = field(default_factory=list)
    answers: str | None = None
    truth: str | None = None
    force: bool = False
    replay: str | None = None
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0

    def __post_init__(self):
        check(self.method is not None or self.replay is not None, "method", "is needed",
              "give sac, calibrated_r or another one of docs/feedback.md, or --replay")
        for name in ("method", "audit", "answers", "truth", "drop", "action"):
            check(self.replay is None or not getattr(self, name), name, "does not apply to a replay", "leave it out")
        check(0 <= self.fraction <= 1, "fraction", f"must be between 0 and 1, got {self.fraction:g}")
        check(self.keep >= 1, "keep", f"must be 1 or more, got {self.keep}")
        check(self.count is None or self.count >= 0, "count", f"must be 0 or more, got {self.count}")
        check(0 < self.epsilon < 0.5, "epsilon", f"must be above 0 and below 0.5, got {self.epsilon:g}",
              "0 changes nothing; at 0.5 a label means nothing")
        check(self.action is None or self.method != "sac", "action", "sac has an action for each source",
              "set actions.mislabeled, actions.bad or actions.disagreement")
        unknown = [name for name in self.drop if name not in DROPPED]
        check(not unknown, "drop", f"an audit has no issue {', '.join(map(repr, unknown))}",
              f"issues are {', '.join(DROPPED)}")
        check(not self.drop or self.audit is not None, "drop", "issues are those of an audit", "give --audit")
        check_seed(self.seed)
