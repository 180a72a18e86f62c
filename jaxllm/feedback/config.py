"""Settings of `jaxllm audit`: the committee and its members, and thresholds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxllm.config import DataConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig, MeshConfig
from jaxllm.evaluate.comparison.config import VerdictConfig
from jaxllm.feedback.calibration import FOLDS, NOISE
from jaxllm.feedback.sources import SourceConfig
from jaxllm.feedback.votes import EDGES
from jaxllm.judge import JudgeConfig
from jaxllm.text.audit import NEAR

Kind = Literal["reward", "dpo", "judge", "scores", "head", "words"]


@dataclass(frozen=True)
class MemberConfig:
    """A member of the committee.

    Args:
        name: name in results.
        kind: reward (a reward model), dpo (the implicit reward of a policy against its reference), judge (a language
            model that compares both answers, in both orders), scores (a file), head (a linear reward on the last hidden
            state of a frozen model) or words (a linear reward on the words). The last two are trained on the audited
            labels, and score each pair out of fold.
        model: checkpoint of a reward model, policy, judge or frozen model.
        adapter: LoRA adapter of the model.
        reference: reference of a policy; null is the model without its adapter.
        beta: factor of the implicit reward.
        path: file of scores or votes, such as rows.jsonl of jaxllm score.
        criterion: helpfulness or harmlessness, of a member that judges one of them alone.
        judge: another judge than a local model, such as a server.
        verdict: how a judge compares. It votes where both orders give the same verdict; ratings, and with disagreement
            mean probabilities, are averaged over the orders and are its scores.
        max_length: the most tokens of a text; the member abstains on longer ones. Null is the context window.
    """

    name: str
    kind: Kind
    model: str | None = None
    adapter: str | None = None
    reference: str | None = None
    beta: float = 0.1
    path: str | None = None
    criterion: Literal["helpfulness", "harmlessness"] | None = None
    judge: JudgeConfig | None = None
    verdict: VerdictConfig = field(default_factory=VerdictConfig)
    max_length: int | None = None

    def __post_init__(self):
        check(bool(self.name.strip()), "name", "a member needs a name")
        needed = {"scores": "path", "words": "name", "judge": "judge" if self.model is None else "model"}.get(
            self.kind, "model")
        check(getattr(self, needed) is not None, needed, f"a member of kind {self.kind} needs it")
        models = ("reward", "dpo", "judge", "head")
        for name, kinds in (("model", models), ("adapter", models), ("reference", ("dpo",)), ("path", ("scores",)),
                            ("judge", ("judge",)), ("max_length", ("reward", "dpo", "head"))):
            check(getattr(self, name) is None or self.kind in kinds, name,
                  f"does not apply to a member of kind {self.kind}", "leave it out")
        check(self.judge is None or self.model is None, "model", "the judge has a model of its own",
              "give either model or judge")
        check(self.judge is None or self.judge.kind != "reward", "judge.kind", "a reward model is a member of its own",
              "set the member's kind to reward")
        check(self.kind != "dpo" or (self.reference or self.adapter) is not None, "reference",
              "a policy needs its reference", "give reference, or an adapter on the model")
        check(self.verdict.disagreement in ("auto", "mean"), "verdict.disagreement",
              f"is {self.verdict.disagreement}, and a member abstains where the orders disagree",
              "leave it out, or set it to mean")
        check(self.beta > 0, "beta", f"must be above 0, got {self.beta:g}")
        check(self.max_length is None or self.max_length >= 2, "max_length",
              f"must be 2 or more, got {self.max_length}")

    @property
    def judge_config(self) -> JudgeConfig:
        """The judge of a member of kind judge."""
        return self.judge or JudgeConfig(model=self.model, adapter=self.adapter)


@dataclass(frozen=True)
class CommitteeConfig:
    """The committee.

    Args:
        scores: file of scores or votes, of any number of members: rows {id, member, chosen, rejected}, {id, member,
            vote, vote_swapped?} or {id, scores: {member: [chosen, rejected]}}. A vote is 1 (agrees with the label), -1,
            0 (tie) or null; vote_swapped is that with the answers shown in the other order.
        members: members that score the pairs in this run, one after another.
        cache: directory with the scores of members by content, for other runs too; null keeps them in the results.
        tolerance: scores that differ by no more are a tie.
        edges: shares of the votes at which buckets end; no vote and all votes are buckets of their own.
        noise: share of wrong labels that is expected before the members are heard; pairs that people judged correct it.
    """

    scores: str | None = None
    members: list[MemberConfig] = field(default_factory=list)
    cache: str | None = tunable(None)
    tolerance: float = 0.0
    edges: list[float] = field(default_factory=lambda: list(EDGES))
    noise: float = NOISE

    def __post_init__(self):
        check(self.scores is not None or bool(self.members), "members", "the committee has no members",
              "give --committee.scores or members in a config file")
        names = [member.name for member in self.members]
        check(len(set(names)) == len(names), "members", "two members have the same name")
        check(self.tolerance >= 0, "tolerance", f"must be 0 or more, got {self.tolerance:g}")
        check(all(0 < edge < 1 for edge in self.edges) and sorted(set(self.edges)) == self.edges, "edges",
              f"must be ascending shares between 0 and 1, got {self.edges}")
        check(0 < self.noise < 0.5, "noise", f"must be above 0 and below 0.5, got {self.noise:g}")


@dataclass(frozen=True)
class AuditConfig:
    """Audits preference pairs by a committee of reward models and judges: how many agree with each label, why labels
    may be unreliable, and how far the committee can be trusted (2410.01957).

    Texts are neither printed nor logged. The report has those of the most suspicious pairs, folded.

    Args:
        data: rows {id?, prompt, chosen, rejected, domain?, human_votes?, tags?}; domain is helpful, harmless or mixed,
            human_votes a list of chosen, rejected, both_good, both_bad, tie, uncertain.
        committee: the committee.
        out: directory for the results, which jaxllm clean reads.
        sources: thresholds of the sources of unreliability.
        compare: second data file, such as the test set; rows that have one of its prompts, or nearly, are counted.
        near_duplicates: least similarity of near-duplicates, as for jaxllm check; null searches none.
        review: number of the most informative pairs to write into review.jsonl, for people to answer.
        suspicious: number of pairs that the report lists.
        folds: folds of members that are trained on the labels, and of the calibration.
        batch_size: texts that a member scores together.
        device: number formats of the members.
        mesh: how devices share the work of a member.
        seed: base of all random draws.
    """

    data: DataConfig
    committee: CommitteeConfig
    out: Path
    sources: SourceConfig = field(default_factory=SourceConfig)
    compare: str | None = None
    near_duplicates: float | None = NEAR
    review: int = 0
    suspicious: int = 50
    folds: int = FOLDS
    batch_size: int = tunable(32)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    mesh: MeshConfig = tunable(MeshConfig())
    seed: int = 0

    def __post_init__(self):
        for name in ("review", "suspicious"):
            check(getattr(self, name) >= 0, name, f"must be 0 or more, got {getattr(self, name)}")
        check(self.folds >= 2, "folds", f"must be 2 or more, got {self.folds}")
        check(self.batch_size >= 1, "batch_size", f"must be 1 or more, got {self.batch_size}")
        check(self.near_duplicates is None or 0.5 <= self.near_duplicates <= 1, "near_duplicates",
              f"must be from 0.5 to 1, or null, got {self.near_duplicates}")
        check_seed(self.seed)
