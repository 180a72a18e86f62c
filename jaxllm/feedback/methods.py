"""Methods that decide what is done with each preference pair: Source-Aware Cleaning (2410.01957), the thirteen of
PrefCleanBench (2509.23564) in their corrected meaning, baselines, and deciding by a calibrated committee.

A method gives every pair a score of suspicion, flags some, and names the action for these. `_r` removes flagged pairs,
`_f` exchanges their answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxllm.errors import UserError
from jaxllm.feedback.cleaning_config import ActionsConfig, Config
from jaxllm.feedback.ledger import ACTIONS, FLIP, KEEP, MARGIN, REMOVE, REWEIGHT, SOFT, UNPAIRED
from jaxllm.feedback.sources import BAD, CODES, DISAGREEMENT, RULES, standardized_margins
from jaxllm.feedback.votes import ABSTAIN, Count, count_votes
from jaxllm.progress import notice

# Least weight of a pair: training has no rows of weight 0.
LEAST_WEIGHT = 0.05
# Scores of members that vary by such a factor more than those of others are no rewards of one scale.
UNLIKE = 10.0


@dataclass(frozen=True)
class Inputs:
    """What methods decide by, for N pairs and M members.

    Attributes:
        count: number of pairs.
        tags: tags of each prompt.
        ifd: instruction-following difficulty of both answers, `[N, 2]`, NaN where it is not known; None if it was not
            computed.
        audit: arrays of an audit; None without one.
        about: description of the audit: `members`, `noise`, `domains`, `buckets`.
    """

    count: int
    tags: Sequence[Sequence[str]] = ()
    ifd: np.ndarray | None = None
    audit: Any = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def votes(self) -> Count:
        """Votes and voters."""
        return count_votes(self.audit["votes"])

    @property
    def agreement(self) -> np.ndarray:
        """Share of the voters that agree with the label; 1 without voters, so that nothing is done."""
        return np.nan_to_num(self.votes.rate, nan=1.0)


@dataclass
class Decision:
    """What is done with N pairs.

    Attributes:
        action: number in `ACTIONS`.
        value: label probability (soft), factor of the weight (reweight) or margin.
        rule: number in `rules`.
        rules: why.
        flagged: pairs that the method flags, whether its action is done or not.
        suspicion: how likely each label is wrong, in any unit, NaN where nothing is known; None if the method has none.
        by_votes: whether the gate divides a rule's flips by the number of votes.
    """

    action: np.ndarray
    value: np.ndarray
    rule: np.ndarray
    rules: list[str]
    flagged: np.ndarray
    suspicion: np.ndarray | None = None
    by_votes: bool = False

    def set(self, where: np.ndarray, action: int, rule: str, value: np.ndarray | float = 0.0) -> None:
        """Decides some pairs."""
        if rule not in self.rules:
            self.rules.append(rule)
        self.action[where], self.rule[where] = action, self.rules.index(rule)
        self.value[where] = np.broadcast_to(value, where.shape)[where]


def undecided(count: int) -> Decision:
    """Keeps every pair."""
    return Decision(np.zeros(count, np.int8), np.zeros(count), np.zeros(count, np.int32), ["not flagged"],
                    np.zeros(count, bool))


@dataclass(frozen=True)
class Flags:
    """Outcome of a method's score: which pairs are flagged, why, and how suspicious each is."""

    flagged: np.ndarray
    rule: str
    suspicion: np.ndarray | None = None


Method = Callable[[Config, Inputs], Flags]


@dataclass(frozen=True)
class Entry:
    """A method.

    Attributes:
        flag: computes the flags.
        action: number of the action for flagged pairs.
        needs: requirement: audit, scores (an audit with scores of members), tags or ifd.
        by_votes: as in `Decision`.
    """

    flag: Method
    action: int
    needs: str | None = "audit"
    by_votes: bool = False


def decide(config: Config, inputs: Inputs) -> Decision:
    """Decides what is done with each pair.

    Raises:
        UserError: the method needs what is not there.
    """
    decision = undecided(inputs.count)
    if config.method == "sac":
        _require("audit", inputs)
        _source_aware(config.actions, inputs, decision)
        decision.by_votes = True
        return decision
    entry = METHODS[str(config.method)]
    _require(entry.needs, inputs)
    flags = entry.flag(config, inputs)
    decision.suspicion, decision.flagged, decision.by_votes = flags.suspicion, flags.flagged, entry.by_votes
    action = entry.action if config.action is None else ACTIONS.index(config.action)
    value = np.broadcast_to(_value(config, inputs, action), inputs.count)
    unknown = np.isnan(value)
    decision.set(flags.flagged & ~unknown, action, flags.rule, value)
    decision.set(flags.flagged & unknown, KEEP, "no member scored" if action == MARGIN else "no member voted")
    return decision


def _require(needs: str | None, inputs: Inputs) -> None:
    if needs in ("audit", "scores") and inputs.audit is None:
        raise UserError("this method decides by a committee", "audit", "give --audit, the --out of jaxllm audit")
    if needs == "scores" and np.isnan(inputs.audit["scores"]).all():
        raise UserError("this method needs scores, and the members of the audit give votes alone", "audit",
                        "use a method that decides by votes")
    if needs == "tags" and not any(inputs.tags):
        raise UserError("this method needs the column tags", "data.path",
                        "add the tags of each prompt, a list of texts")
    if needs == "ifd" and inputs.ifd is None:
        raise UserError("this method needs the instruction-following difficulty of both answers", "ifd",
                        "give --ifd.model, or --ifd.path with rows {id, chosen, rejected}")


def _value(config: Config, inputs: Inputs, action: int) -> np.ndarray | float:
    """Returns the label probabilities, weights or margins that an action sets; NaN where no member gives one."""
    if action == SOFT and config.method == "smooth":
        return 1 - config.epsilon
    if action in (SOFT, REWEIGHT):
        _require("audit", inputs)
        by_committee = str(config.method).startswith(("calibrated", "confident", "soft_calibrated"))
        share = inputs.audit["right"] if by_committee else inputs.votes.rate
        return share if action == SOFT else np.maximum(share, LEAST_WEIGHT)
    if action == MARGIN:
        _require("scores", inputs)
        return inputs.audit["margin"]
    return 0.0


def _source_aware(actions: ActionsConfig, inputs: Inputs, decision: Decision) -> None:
    """Decides by the sources of the audit; bad pairs come before wrong labels."""
    source, rule = inputs.audit["source"], inputs.audit["rule"]
    decision.suspicion = 1 - inputs.audit["right"]
    for names, action in ((BAD, actions.bad), (("1",), actions.mislabeled), (DISAGREEMENT, actions.disagreement)):
        for name in names:
            own = source == CODES.index(name)
            for number in np.unique(rule[own]):
                where, code = own & (rule == number), ACTIONS.index(action)
                share = inputs.agreement
                value = share if code == SOFT else np.maximum(share, LEAST_WEIGHT)
                decision.set(where, code, f"source {name}: {RULES[number]}", value)
    decision.flagged = np.isin(decision.action, (FLIP, REMOVE, UNPAIRED))


def _lowest(values: np.ndarray, fraction: float) -> np.ndarray:
    """Flags the share of the pairs with the lowest values, the earlier one of equal ones; NaN is not ranked."""
    known = np.flatnonzero(~np.isnan(values))
    count = min(math.floor(fraction * len(known) + 1e-9), len(known))
    flagged = np.zeros(len(values), bool)
    flagged[known[np.argsort(values[known], kind="stable")[:count]]] = True
    return flagged


def _judge(config: Config, inputs: Inputs) -> Flags:
    """LLM-Judge: the judge prefers the rejected answer; ties do not count."""
    names = list(inputs.about["members"])
    if config.member is None and len(names) > 1:
        raise UserError("the audit has several members", "member", f"name one of {', '.join(names)}")
    name = config.member or names[0]
    if name not in names:
        raise UserError(f"the audit has no member {name!r}", "member", f"name one of {', '.join(names)}")
    votes, scores = inputs.audit["votes"][:, names.index(name)], inputs.audit["scores"][:, names.index(name)]
    margin = scores[:, 0] - scores[:, 1]
    suspicion = np.where(np.isnan(margin), np.where(votes == ABSTAIN, np.nan, -votes), -margin)
    return Flags(votes == -1, f"{name} prefers the rejected answer", suspicion)


def _margin(config: Config, inputs: Inputs) -> Flags:
    """RwGap: the lowest fraction by mean margin over the members."""
    scores = inputs.audit["scores"]
    margins = scores[:, :, 0] - scores[:, :, 1]
    scales = np.array([np.nanstd(own) for own in np.moveaxis(scores, 1, 0) if not np.isnan(own).all()])
    if config.margins == "raw" and scales.max() > UNLIKE * scales.min():
        notice(f"warning: the scores of one member vary {scales.max() / max(scales.min(), 1e-300):.3g} times as much "
               "as those of another one, which decides the mean of raw margins; see --margins standardized")
    if config.margins == "standardized":
        margins = np.stack([standardized_margins(own) for own in np.moveaxis(scores, 1, 0)], 1)
    known = (~np.isnan(margins)).sum(1)
    mean = np.divide(np.nansum(margins, 1), known, out=np.full(len(margins), np.nan), where=known > 0)
    return Flags(_lowest(mean, config.fraction), f"lowest {config.fraction:.0%} by mean margin", -mean)


def _small_loss(config: Config, inputs: Inputs) -> Flags:
    margins = np.stack([standardized_margins(own) for own in np.moveaxis(inputs.audit["scores"], 1, 0)], 1)
    with np.errstate(invalid="ignore"):  # of members without scores
        losses = np.logaddexp(0, -margins)
    known = (~np.isnan(margins)).sum(1)
    mean = np.divide(np.nansum(losses, 1), known, out=np.full(len(margins), np.nan), where=known > 0)
    return Flags(_lowest(-mean, config.fraction), f"highest {config.fraction:.0%} by mean loss", mean)


def _vote_all(config: Config, inputs: Inputs) -> Flags:
    votes, voters = inputs.votes
    return Flags((votes == 0) & (voters > 0), "no votes", 1 - inputs.agreement)


def _vote_majority(config: Config, inputs: Inputs) -> Flags:
    votes, voters = inputs.votes
    return Flags(2 * votes < voters, "a minority of votes", 1 - inputs.agreement)


def _vote_full(config: Config, inputs: Inputs) -> Flags:
    votes, voters = inputs.votes
    return Flags((votes < voters) | (voters == 0), "not all votes", 1 - inputs.agreement)


def _weighted(config: Config, inputs: Inputs) -> Flags:
    total = inputs.audit["weighted"]
    return Flags(total < 0, "weighted votes are against the label", -total)


def _calibrated(config: Config, inputs: Inputs) -> Flags:
    right = inputs.audit["right"]
    return Flags(right < 0.5, "more likely wrong than right", 1 - right)


def _confident(config: Config, inputs: Inputs) -> Flags:
    """Confident learning with two classes: which of both answers, in an order that the label has no part in, is better.

    The predictions are those of the members; people's answers, which may be that neither is better, are none.
    """
    right, noise = np.clip(inputs.audit["by_members"], 1e-12, 1 - 1e-12), inputs.about["noise"]
    better = 1 / (1 + (1 - right) / right * (1 - noise) / noise)  # without the label as evidence
    side = inputs.audit["first"].astype(int)
    thresholds = [better[side == own].mean() if (side == own).any() else 1.0 for own in (0, 1)]
    given, other = np.take(thresholds, side), np.take(thresholds, 1 - side)
    slack = 1e-6
    passes_given, passes_other = better >= given - slack, 1 - better >= other - slack
    return Flags(passes_other & (~passes_given | (better < 0.5)), "confidently another class", 1 - better)


def _random(config: Config, inputs: Inputs) -> Flags:
    """A count of pairs, or a fraction, at random."""
    count = math.floor(config.fraction * inputs.count + 1e-9) if config.count is None else config.count
    flagged = np.zeros(inputs.count, bool)
    flagged[np.random.default_rng(config.seed).permutation(inputs.count)[:count]] = True
    return Flags(flagged, "drawn at random")


def _everything(config: Config, inputs: Inputs) -> Flags:
    return Flags(np.ones(inputs.count, bool), "every pair")


def _by_share(config: Config, inputs: Inputs) -> Flags:
    return Flags(np.ones(inputs.count, bool), "every pair", 1 - inputs.votes.rate)


def _by_probability(config: Config, inputs: Inputs) -> Flags:
    return Flags(np.ones(inputs.count, bool), "every pair", 1 - inputs.audit["right"])


def _by_margin(config: Config, inputs: Inputs) -> Flags:
    return Flags(np.ones(inputs.count, bool), "every pair", -inputs.audit["margin"])


def _nothing(config: Config, inputs: Inputs) -> Flags:
    return Flags(np.zeros(inputs.count, bool), "not flagged")


def _tags(config: Config, inputs: Inputs, order: np.ndarray) -> Flags:
    """Keeps pairs that add a tag, in an order, and fills up with others at random, without replacement."""
    seen: set[str] = set()
    chosen: list[int] = []
    for number in order:
        if len(chosen) == config.keep:
            break
        if new := set(inputs.tags[number]) - seen:
            seen |= new
            chosen.append(number)
    if config.keep >= inputs.count:
        notice(f"{config.keep:,} pairs or more are retained, and there are {inputs.count:,}: nothing is removed; see "
               "--keep")
    rest = np.setdiff1d(np.arange(inputs.count), chosen)
    filled = np.random.default_rng(config.seed).permutation(rest)[:max(config.keep - len(chosen), 0)]
    flagged = np.ones(inputs.count, bool)
    flagged[[*chosen, *filled]] = False
    return Flags(flagged, f"not among the {config.keep:,} pairs chosen for their tags")


def _most_tags(config: Config, inputs: Inputs) -> Flags:
    return _tags(config, inputs, np.argsort([-len(own) for own in inputs.tags], kind="stable"))


def _diverse_tags(config: Config, inputs: Inputs) -> Flags:
    return _tags(config, inputs, np.random.default_rng(config.seed + 1).permutation(inputs.count))


def _easy(config: Config, inputs: Inputs) -> Flags:
    """IFD: the lowest fraction by the difficulty of the chosen answer; those above 1 are not ranked."""
    assert inputs.ifd is not None
    chosen = inputs.ifd[:, 0]
    ranked = np.where(chosen <= 1, chosen, np.nan)
    return Flags(_lowest(ranked, config.fraction), f"lowest {config.fraction:.0%} by difficulty", -chosen)


def _difficulty_margin(config: Config, inputs: Inputs) -> Flags:
    assert inputs.ifd is not None
    margin = inputs.ifd[:, 0] - inputs.ifd[:, 1]
    return Flags(_lowest(margin, config.fraction), f"lowest {config.fraction:.0%} by margin of difficulty", -margin)


def _both(name: str, flag: Method, needs: str | None = "audit", by_votes: bool = False) -> dict[str, Entry]:
    return {f"{name}_r": Entry(flag, REMOVE, needs, by_votes), f"{name}_f": Entry(flag, FLIP, needs, by_votes)}


METHODS: dict[str, Entry] = {
    **_both("llm_judge", _judge), **_both("rwgap", _margin, "scores"), **_both("vote_all", _vote_all, by_votes=True),
    **_both("vote_maj", _vote_majority, by_votes=True), "tag_cmp": Entry(_most_tags, REMOVE, "tags"),
    "tag_div": Entry(_diverse_tags, REMOVE, "tags"), "ifd_r": Entry(_easy, REMOVE, "ifd"),
    **_both("ifd_gap", _difficulty_margin, "ifd"), "none": Entry(_nothing, KEEP, None),
    **_both("random", _random, None),
    "vote_full": Entry(_vote_full, REMOVE, by_votes=True), **_both("small_loss", _small_loss, "scores"),
    **_both("confident", _confident), **_both("weighted", _weighted), **_both("calibrated", _calibrated),
    "soft_votes": Entry(_by_share, SOFT), "soft_calibrated": Entry(_by_probability, SOFT),
    "weight_votes": Entry(_by_share, REWEIGHT), "margins": Entry(_by_margin, MARGIN, "scores"),
    "smooth": Entry(_everything, SOFT, None),
}
NAMES = ("sac", *METHODS)
