"""Settings of `jaxllm judge`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxllm.codejudge.prompts import CATALOGUES
from jaxllm.config import DataConfig, SamplingConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig
from jaxllm.judge import JudgeConfig
from jaxllm.limits import check_limits

Method = Literal["analyze_then_summarize", "fault_localization", "direct", "chain_of_thought", "ice_score",
                 "helpfulness", "analyze_then_rate", "pairwise"]
Protocol = Literal["pooled", "humanevalx", "apps", "bigcodebench", "conala"]
InvalidPolicy = Literal["drop", "wrong", "opposite", "zero"]
Edit = Literal["rename", "praise", "stub", "truncate"]
# Methods in which an analysis comes first.
TWO_STEPS = ("analyze_then_summarize", "chain_of_thought", "analyze_then_rate")
# Policy for invalid answers of each protocol in the paper, where the protocol is given.
POLICIES: Mapping[str, InvalidPolicy] = {"humanevalx": "wrong", "apps": "wrong", "bigcodebench": "opposite",
                                         "conala": "zero", "pooled": "drop"}
# Settings of several samples where no temperature is given, those of the paper for models that are sampled.
SEVERAL = {"temperature": 0.4, "top_p": 0.9}
# Measures that need scores and no verdicts.
_OF_SCORES = ("valid_rate", "kendall", "spearman", "pearson", "auroc", "agreement")
# Measures of pairs.
_OF_PAIRS = ("accuracy", "valid_rate")
# Measures that fail_under may name: keys of result.json that are numbers, or have a mean.
LIMITED = ("accepted", "valid_rate", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc", "kendall",
           "spearman", "pearson", "auroc", "agreement")


@dataclass(frozen=True)
class VariantConfig:
    """Variants of the prompts, of which the paper reports that they did not help.

    Args:
        step_by_step: the instruction of the analysis demands thinking step by step.
        worked_example: the analysis sees a worked example.
        few_shot_summary: the summary sees three worked examples.
    """

    step_by_step: bool = False
    worked_example: bool = False
    few_shot_summary: bool = False


@dataclass(frozen=True)
class ValidationConfig:
    """Groups on which a threshold and a temperature are fitted; the result is measured on the others.

    Args:
        subset: groups with a row of this subset are the validation groups.
        share: without a subset, the share of groups that is drawn.
    """

    subset: str | None = None
    share: float = 0.0

    def __post_init__(self):
        check(0 <= self.share < 1, "share", f"must be at least 0 and below 1, got {self.share:g}")
        check(self.subset is None or self.share == 0, "share", "does not apply with a subset", "leave one out")


@dataclass(frozen=True)
class Config:
    """Judges whether programs are right, without running them (CodeJudge, 2410.02184).

    Rows of a data file, or files of source code: jaxllm judge --task TEXT --code FILE... prints the verdicts, and
    writes nothing without --out.

    Args:
        out: directory for the results.
        data: rows {id?, task (or problem), candidate, language?, examples?, reference?, declaration?, label?, grade?,
            grader_grades?, group?, dataset?, subset?, problem_id?}.
        task: description of what the files of --code should do.
        code: files of source code, or directories with such files.
        language: language of all files of --code; null takes that of the suffix.
        method: analyze_then_summarize (an analysis, then Yes or No about it alone), fault_localization (a list of
            faults with severities, and a score), and baselines: direct (Yes or No), chain_of_thought (an analysis
            without steps, then Yes or No), ice_score (a grade from 0 to 4), helpfulness (0 to 100), analyze_then_rate
            (an analysis, then 0 to 100), pairwise (which of two programs is right, in both orders).
        judge: the judge.
        use_reference: the judge sees the reference of a row.
        parser: strict accepts what can mean one thing only; compat reproduces the parser released with the paper.
        attempts: an answer that cannot be parsed is generated anew with the reason in the prompt, this many times in
            all; null is 3, and 1 with the compat parser.
        samples: answers a program, of which the majority or the mean counts.
        runs: repetitions, each with its own samples; measures are means over them. A row's verdict is of the first.
        temperature: temperature of the answers; null is 0, and 0.4 for several samples or runs.
        top_p: nucleus sampling; null is 1, and 0.9 for several samples or runs.
        max_tokens: longest analysis or list of faults, in tokens.
        answer_tokens: longest Yes, No, grade or rating.
        probability: probabilities of the answers are computed too, from one forward pass; null does so where the judge
            can.
        decide: text takes the verdict from the sampled answer; probability from the probabilities, and samples none.
        threshold: a program is right from this score on, with decide=probability from this probability on; null is 1,
            for probabilities 0.5, for expected grades 0.875, and for helpfulness no verdict.
        weights: points of a fault by severity; a severity that is left out has those of the prompts.
        catalogue: faults that the prompt lists; null is conala for rows of CoNaLa, else default.
        prompts: YAML file with prompts, faults and weights in place of the package's.
        variant: variants of the prompts.
        protocol: how measures are aggregated, and how the task is described; null goes by the rows' dataset. A given
            one also sets invalid_policy.
        invalid_policy: rows without a valid answer are left out (drop), wrong in the verdict and left out of
            correlations (wrong), the opposite of the label (opposite), or have the score 0 (zero); null is drop, and
            with a given protocol the paper's: wrong for humanevalx and apps, opposite for bigcodebench, zero for
            conala, drop for pooled.
        subset: judge only rows of this subset.
        problems: file with the rows that problem_id names; null is the data file itself.
        validation: rows on which a threshold and a temperature are fitted.
        robustness: edits of the programs, which are judged as well: rename (of variables), praise (a comment
            that claims correctness), stub (a copy of the head before the function), truncate (the end is cut off).
        surface: BLEU, ROUGE-L and chrF of the programs against their references are measured in the same way, as
            baselines; needs pip install 'jaxllm[surface]'.
        export: sft or preference writes export.jsonl for jaxllm tune, from the rows with labels.
        compare: directory of another run on the same rows, for paired differences.
        fail_under: METRIC=VALUE, such as accuracy=0.7, valid_rate=0.9 or accepted=1 (programs judged right, of all;
            accuracy is of valid answers by default): the exit status is 3 if a measure is below.
        device: number formats of a local judge.
        seed: base of all random draws.
    """

    out: Path | None = None
    data: DataConfig | None = None
    task: str | None = None
    code: list[Path] = field(default_factory=list)
    language: str | None = None
    method: Method = "analyze_then_summarize"
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    use_reference: bool = True
    parser: Literal["strict", "compat"] = "strict"
    attempts: int | None = None
    samples: int = 1
    runs: int = 1
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int = 1024
    answer_tokens: int = 10
    probability: bool | None = None
    decide: Literal["text", "probability"] = "text"
    threshold: float | None = None
    weights: dict[str, float] = field(default_factory=dict)
    catalogue: Literal["default", "extended", "conala"] | None = None
    prompts: Path | None = None
    variant: VariantConfig = field(default_factory=VariantConfig)
    protocol: Protocol | None = None
    invalid_policy: InvalidPolicy | None = None
    subset: str | None = None
    problems: str | None = None
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    robustness: list[Edit] = field(default_factory=list)
    surface: bool = False
    export: Literal["sft", "preference"] | None = None
    compare: str | None = None
    fail_under: list[str] = tunable(default_factory=list)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0

    def __post_init__(self):
        check((self.data is None) != (not self.code), "data.path" if self.data is None else "code",
              "give either rows with --data.path, or files with --task and --code")
        check(bool(self.code) == (self.task is not None), "task", "files of --code need their --task"
              if self.code else "belongs to --code; rows have their own tasks")
        check(self.task is None or bool(self.task.strip()), "task", "is empty")
        check(self.data is None or self.out is not None, "out", "rows are judged into a directory", "add --out DIR")
        check(self.language is None or bool(self.code), "language", "belongs to --code; rows have their own languages")
        for name, given in (("subset", self.subset), ("problems", self.problems),
                            ("validation", self.validation != ValidationConfig() or None)):
            check(given is None or not self.code, name, "belongs to rows, and does not apply to files of --code")
        check(self.judge.kind != "reward", "judge.kind", "is reward, and a reward model gives no reasons",
              "use local, openai, recorded or callable")
        for name in ("samples", "runs", "max_tokens", "answer_tokens"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")
        check(self.attempts is None or self.attempts >= 1, "attempts", f"must be 1 or more, got {self.attempts}")
        several = self.samples * self.runs > 1
        check(not several or self.temperature is None or self.temperature > 0 or self.judge.kind == "recorded",
              "temperature", "is 0, which gives the same answer again and again", "set it above 0, or leave it out")
        check(self.threshold is None or 0 <= self.threshold <= 1, "threshold",
              f"must be between 0 and 1, got {self.threshold}")
        for name, points in self.weights.items():
            check(0 <= points < float("inf"), "weights", f"{name} has {points} points, and needs 0 or more")
        check(self.decide == "text" or self.has_probability, "decide",
              f"is probability, and {self.method} has none", "use text")
        check(self.decide == "text" or self.probability is not False, "probability", "is off, and decide needs it")
        check(self.probability is not True or self.has_probability and (
            self.method != "pairwise" or self.decide == "probability"), "probability",
              f"is on, and {self.method} has none", "set decide to probability" if self.has_probability else None)
        check(self.export is None or self.decide == "text" or self.method != "ice_score", "export",
              "needs answers, and with decide=probability ice_score generates none", "set decide to text")
        check(self.method != "pairwise" or not (
            self.robustness or self.export or several or self.compare or self.validation != ValidationConfig()
            or self.surface or self.invalid_policy is not None or self.threshold is not None
            or self.parser == "compat"), "method", "pairwise goes without samples, robustness, export, compare, "
              "validation, surface, invalid_policy, threshold and the compat parser")
        check(not several or self.decide == "text" or self.method in TWO_STEPS, "decide",
              "is probability, which is the same in each sample", "use one sample and one run")
        check(self.variant == VariantConfig() or self.method in TWO_STEPS, "variant",
              f"does not apply to {self.method}, which has no analysis")
        check(self.method == "fault_localization" or not self.weights and self.catalogue is None,
              "weights" if self.weights else "catalogue", f"does not apply to {self.method}, which lists no faults")
        check_limits(self.fail_under, LIMITED)
        check(self.threshold is None or self.decide == "probability" or self.method not in (
            "analyze_then_summarize", "chain_of_thought", "direct"), "threshold",
              f"does not apply to {self.method}, which answers Yes or No", "set decide to probability")
        for name in (limit.partition("=")[0] for limit in self.fail_under):
            known = name in _OF_PAIRS if self.method == "pairwise" else self.gives_verdicts or name in _OF_SCORES
            check(known and (name != "agreement" or self.samples > 1), "fail_under",
                  f"{name} is never known with these settings")
        check_seed(self.seed)

    @property
    def answers(self) -> int:
        """Number of answers to a program, of all runs."""
        return self.samples * self.runs

    @property
    def most_attempts(self) -> int:
        """Number of times that an answer is generated at most."""
        return self.attempts or (1 if self.parser == "compat" else 3)

    @property
    def has_probability(self) -> bool:
        """Whether the method's answers are few options."""
        return self.method in ("analyze_then_summarize", "chain_of_thought", "direct", "ice_score", "pairwise")

    @property
    def gives_verdicts(self) -> bool:
        """Whether the method's answers have verdicts; ratings have them with a threshold only."""
        return self.threshold is not None or self.method not in ("helpfulness", "analyze_then_rate")

    def sampling(self, max_tokens: int, n: int = 1) -> SamplingConfig:
        """Returns the decoding settings of a step."""
        several = SEVERAL if self.answers > 1 else {"temperature": 0.0, "top_p": 1.0}
        given = {name: getattr(self, name) for name in several if getattr(self, name) is not None}
        values = several | given
        if self.judge.kind == "recorded" and n > 1:  # the texts are there at any temperature
            values["temperature"] = values["temperature"] or 1.0
        return SamplingConfig(**values, max_tokens=max_tokens, n=n)

    @property
    def policy(self) -> InvalidPolicy:
        """Policy for invalid answers: `invalid_policy`, else the paper's for a given `protocol`, else drop."""
        return self.invalid_policy or ("drop" if self.protocol is None else POLICIES[self.protocol])

    @property
    def policy_from(self) -> Literal["invalid_policy", "protocol", "default"]:
        """The setting that the policy for invalid answers comes from."""
        return "invalid_policy" if self.invalid_policy else "protocol" if self.protocol else "default"

    def catalogue_for(self, protocol: str) -> str:
        """Returns the name of the catalogue of faults for the rows of a data set."""
        return self.catalogue or ("conala" if protocol == "conala" else CATALOGUES[0])
