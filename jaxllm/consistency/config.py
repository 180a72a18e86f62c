"""Settings of `jaxllm consistency`, and those that `jaxllm rank` shares."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from jaxllm.config import DataConfig, SamplingConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig
from jaxllm.judge import JudgeConfig
from jaxllm.limits import check_limits

Kind = Literal["local", "reward", "openai", "recorded", "callable", "matrix"]
# Measures that fail_under may name; see `results.limited`.
LIMITED = ("s_tran", "s_tran_debiased", "s_comm", "s_neg", "human_agreement", "human_agreement_debiased",
           "coverage", "answer_mass", "self_agreement", "zeta")
# Decoding of sampled answers, as in the paper.
SAMPLES, TEMPERATURE = 10, 0.7


@dataclass(frozen=True)
class MatrixJudgeConfig(JudgeConfig):
    """A judge, or none.

    Args:
        kind: local (a checkpoint), reward (a reward model), openai (an OpenAI-compatible server), recorded (answers in
            a file), callable (a Python function), or matrix (no judge: the rows hold the probabilities).
    """

    kind: Kind = "local"  # type: ignore[assignment]

    def __post_init__(self):
        if self.kind != "matrix":
            return super().__post_init__()
        for one in fields(JudgeConfig):
            check(one.name == "kind" or one.metadata.get("tunable") or getattr(self, one.name) == one.default, one.name,
                  "does not apply to matrices, which need no judge", "leave it out")


@dataclass(frozen=True)
class PairConfig:
    """Settings of jobs in which a judge compares two items of an instance.

    Args:
        out: directory for the results.
        data: rows {id?, context?, items, human?}; human is a score for each item, or pairs [[i, j], ...], item i before
            item j. With --judge.kind matrix rows {id?, p, q?, human?}, where p[i][j] is the probability that the judge
            picks the item that is shown first, with i first and j second, and q the same for the negated question.
        judge: the judge.
        template: coherence, relevance, temporal, overall, or a YAML file with question, negated and options.
        method: probability (of both answers, from one forward pass), text (a sampled answer), or chain_of_thought
            (reasons, then an answer on the last line).
        samples: answers to a question, for text and chain_of_thought; null is 10, and 1 at temperature 0.
        temperature: temperature of the answers; null is 0.7.
        max_tokens: longest answer with its reasons, in tokens.
        device: number formats of a local judge.
        seed: base of all random draws.
    """

    out: Path
    data: DataConfig
    judge: MatrixJudgeConfig = field(default_factory=MatrixJudgeConfig)
    template: str = "overall"
    method: Literal["probability", "text", "chain_of_thought"] = "probability"
    samples: int | None = None
    temperature: float | None = None
    max_tokens: int = 512
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0

    def __post_init__(self):
        check(self.max_tokens >= 1, "max_tokens", f"must be 1 or more, got {self.max_tokens}")
        check(self.samples is None or self.samples >= 1, "samples", f"must be 1 or more, got {self.samples}")
        check(self.temperature is None or self.temperature >= 0, "temperature",
              f"must be 0 or more, got {self.temperature}")
        check(not self.temperature == 0 or self.samples in (None, 1), "samples",
              f"temperature 0 gives the same answer {self.samples} times", "set temperature above 0")
        check(self.max_tokens == 512 or self.method == "chain_of_thought", "max_tokens",
              f"does not apply to {self.method}, which has no reasons", "set method to chain_of_thought")
        if self.needs_judge and self.method == "probability":
            for name in ("samples", "temperature"):
                check(getattr(self, name) is None, name, "does not apply to probabilities, which are computed",
                      "set method to text or chain_of_thought")
        if not self.needs_judge:
            for one in fields(self):
                check(one.name not in self.for_judges or getattr(self, one.name) == one.default, one.name,
                      "does not apply to matrices, which need no judge", "leave it out")
        check_seed(self.seed)

    @property
    def for_judges(self) -> tuple[str, ...]:
        """Names of the settings that do not apply to matrices."""
        return "template", "method", "samples", "temperature", "max_tokens"

    @property
    def needs_judge(self) -> bool:
        """Whether a judge compares the items."""
        return self.judge.kind != "matrix"

    @property
    def answers(self) -> int:
        """Number of sampled answers to a question; 1 for probabilities."""
        if not self.needs_judge or self.method == "probability":
            return 1
        return self.samples or (1 if self.temperature == 0 else SAMPLES)

    @property
    def sampling(self) -> SamplingConfig:
        """Decoding of sampled answers."""
        temperature = TEMPERATURE if self.temperature is None else self.temperature
        if self.judge.kind == "recorded" and self.answers > 1:  # the texts are there at any temperature
            temperature = temperature or 1.0
        return SamplingConfig(temperature=temperature, n=self.answers,
                              max_tokens=self.max_tokens if self.method == "chain_of_thought" else 10)


@dataclass(frozen=True)
class Config(PairConfig):
    """Measures how logically consistent a judge of pairs is: transitivity, commutativity, negation invariance.

    Every two items of an instance are compared in both orders, with a question and with its negation (2410.02205).

    Args:
        negated: use the negated questions too.
        paraphrases: paraphrases of the question, and with `negated` of its negation, that are used as well, for the
            spread over wordings.
        pairs: compare this many pairs of an instance only, which connect as many of its items as they can; null
            compares all.
        shuffle: the graph is built from a random order of the items, not from theirs; null is false for matrices, and
            true else.
        tie: two items are equal where the probability is this close to 0.5; null decides every comparison.
        missing: comparisons without an answer are left out (drop), count as 0.5, for the item shown first (first), or
            end the job (error).
        sizes: numbers of items K for which the transitivity s_tran(K) is measured.
        subsets: subsets of K items that are sampled for each instance; all of them are used if there are no more.
        violations: cycles, order flips and failed negations that are listed, of each kind and instance.
        compare: directory of another run on the same instances, for paired differences.
        fail_under: METRIC=VALUE, such as s_comm=0.8 or s_tran=0.9 (of the last one of sizes): the exit status is 3 if a
            measure is below.
    """

    negated: bool = True
    paraphrases: int = 0
    pairs: int | None = None
    shuffle: bool | None = None
    tie: float | None = None
    missing: Literal["drop", "first", "error"] = "drop"
    sizes: list[int] = field(default_factory=lambda: [3, 4, 5])
    subsets: int = 1000
    violations: int = 10
    compare: str | None = None
    fail_under: list[str] = tunable(default_factory=list)

    def __post_init__(self):
        super().__post_init__()
        check(bool(self.sizes) and all(size >= 3 for size in self.sizes) and len(set(self.sizes)) == len(self.sizes),
              "sizes", f"must be different numbers of 3 or more, got {self.sizes}", "a cycle has three items or more")
        check(self.subsets >= 1, "subsets", f"must be 1 or more, got {self.subsets}")
        check(self.violations >= 0, "violations", f"must be 0 or more, got {self.violations}")
        check(self.tie is None or 0 <= self.tie < 0.5, "tie", f"must be at least 0 and below 0.5, got {self.tie}")
        check(self.pairs is None or self.pairs >= 1, "pairs", f"must be 1 or more, got {self.pairs}")
        check(self.paraphrases >= 0, "paraphrases", f"must be 0 or more, got {self.paraphrases}")
        check_limits(self.fail_under, LIMITED)

    @property
    def for_judges(self) -> tuple[str, ...]:
        """See `PairConfig`."""
        return *super().for_judges, "negated", "paraphrases", "pairs"

    @property
    def shuffles(self) -> bool:
        """Whether the order of the items is drawn."""
        return self.needs_judge if self.shuffle is None else self.shuffle
