"""Settings of `jaxllm tune`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from jaxllm.config import DataConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig, MeshConfig
from jaxllm.errors import UserError
from jaxllm.finetune.inputs import check_trained_weights
from jaxllm.finetune.objectives import Kind, Objective
from jaxllm.models import LoraConfig
from jaxllm.ops.preference import mixture, resolve
from jaxllm.ops.preference_losses import LOSSES, MIXTURES, REFERENCE_FREE, UNPAIRED, PreferenceSettings
from jaxllm.text.encoding import MAX_LENGTH
from jaxllm.train.config import TrainConfig

METHODS: dict[str, tuple[Kind, str | None]] = {
    "sft": ("sft", None), "reward": ("reward", None), "classify": ("classify", None), "dpo": ("pairs", "sigmoid"),
    "kto": ("unpaired", "kto"), "orpo": ("pairs", "orpo"), "cpo": ("pairs", "cpo")}
"""Methods, the form of their rows, and their default loss."""
LEARNING_RATES: dict[Kind, tuple[float, float]] = {
    "sft": (2e-4, 2e-5), "reward": (1e-4, 1e-5), "classify": (1e-4, 1e-5), "pairs": (2e-5, 1e-6),
    "unpaired": (2e-5, 1e-6)}
"""Default learning rates of an adapter and of all weights, by the form of the rows."""
SMALLER_IS_BETTER = ("loss", "nll_loss", "kl", "entropy", "rewards/rejected", "logps/rejected")
"""Metrics of which a smaller value is better; of all others a larger one is."""


@dataclass(frozen=True)
class PreferenceConfig(PreferenceSettings):
    """Settings of preference losses; null is the default of the loss.

    Args:
        ld_alpha: weight of the tokens beyond the length of the shorter completion (LD-DPO); 1 is plain DPO.
        wpo: weight pairs by how probable the policy finds them (WPO).
    """

    ld_alpha: float = 1.0
    wpo: bool = False

    def __post_init__(self):
        check(0 <= self.ld_alpha <= 1, "ld_alpha", f"must be between 0 and 1, got {self.ld_alpha:g}")

    @property
    def settings(self) -> PreferenceSettings:
        """The settings of the loss functions alone."""
        return PreferenceSettings(**{one.name: getattr(self, one.name) for one in fields(PreferenceSettings)})


@dataclass(frozen=True)
class ReferenceConfig:
    """Reference model of a preference loss: the model before training.

    Args:
        when: before computes its log-probabilities once, before the first step, and keeps them for later runs; step
            computes them in every step. auto is before where that is possible.
        sync_every: steps between two updates of the reference model by the policy (TR-DPO); null keeps it.
        sync_mix: share of the policy in an update; an adapter's two factors are mixed, each by itself.
    """

    when: Literal["auto", "before", "step"] = "auto"
    sync_every: int | None = None
    sync_mix: float = 0.6

    def __post_init__(self):
        check(self.sync_every is None or self.sync_every >= 1, "sync_every",
              f"must be 1 or more, or null, got {self.sync_every}")
        check(0 < self.sync_mix <= 1, "sync_mix", f"must be above 0 and at most 1, got {self.sync_mix:g}")
        check(self.sync_every is None or self.when != "before", "when",
              "the reference model changes, so that it cannot be run before training", "set it to step")


@dataclass(frozen=True)
class LengthConfig:
    """Lengths of texts in tokens, and what happens to longer ones.

    Args:
        max_length: prompt and completion together; null takes the context window. A longer completion keeps its start.
            Rows with a prompt of that length are dropped, and so are longer rows of a reward model or classifier.
        max_prompt_length: prompt alone, or a conversation before its first turn with a loss, which keeps its end; null
            does not truncate it.
    """

    max_length: int | None = MAX_LENGTH
    max_prompt_length: int | None = None

    def __post_init__(self):
        for name in ("max_length", "max_prompt_length"):
            value = getattr(self, name)
            check(value is None or value >= 2, name, f"must be 2 or more, or null, got {value}")


@dataclass(frozen=True)
class HeldBackConfig:
    """Rows that are not trained on, and evaluated.

    Args:
        path: file of these rows, in the form of data.path; null takes a share of the data.
        share: share of the data's prompts, chosen by a hash of the prompt; 0 holds nothing back.
        every: steps between two evaluations, the last step included; null evaluates the end only.
        metric: metric by which evaluations are compared.
        patience: evaluations without a better value after which training ends (early stopping); null never ends it.
        keep: which weights are saved: those of the last step, or of the best evaluation; best makes a checkpoint at
            every evaluation, so that train.save_every has to divide every.
    """

    path: str | None = None
    share: float = 0.05
    every: int | None = None
    metric: str = "loss"
    patience: int | None = None
    keep: Literal["last", "best"] = "last"

    def __post_init__(self):
        check(0 <= self.share < 1, "share", f"must be at least 0 and below 1, got {self.share:g}")
        check(self.every is None or self.every >= 1, "every", f"must be 1 or more, or null, got {self.every}")
        check(self.patience is None or self.patience >= 1, "patience", f"must be 1 or more, got {self.patience}")
        for name, used in (("patience", self.patience is not None), ("keep", self.keep == "best"),
                           ("every", self.every is not None)):
            check(not used or self.every is not None, name, "needs evaluations during training, and every is null",
                  "set held_back.every")
            check(not used or self.path is not None or self.share > 0, name, "needs held-back rows, and there are none",
                  "set held_back.share or held_back.path")

    @property
    def smaller(self) -> bool:
        """Whether a smaller value of the metric is better."""
        return self.metric in SMALLER_IS_BETTER


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How a model is fine-tuned.

    Args:
        method: sft, reward, classify, dpo, kto, orpo or cpo, or the name of a loss.
        loss: losses of a preference method, by TRL's names; null takes that of the method.
        loss_weights: weight of every loss; null weighs each by 1.
        preference: settings of the losses.
        reference: the reference model.
        centering: weight of the squared sum of a pair's rewards, which keeps them around 0 (reward; 0.01 is usual).
        labels: names of a classifier's classes in order, for labels that are names or numbers; null takes the labels of
            the data, sorted.
        turns: assistant turns of {messages} that are trained on: all, or the last.
        lengths: lengths of texts.
        held_back: rows for evaluation.
        train: steps and optimizer; an lr of null is 2e-4 for sft, 1e-4 for reward and classify, and 2e-5 for preference
            losses; without an adapter 2e-5, 1e-5 and 1e-6.
        lora: adapter; null trains all weights.
        mesh: how the devices share a step.
        device: dtypes.
        seed: seed of all random draws.
    """

    method: str
    loss: list[str] | None = None
    loss_weights: list[float] | None = None
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    centering: float = 0.0
    labels: list[str | int] | None = None
    turns: Literal["all", "last"] = "all"
    lengths: LengthConfig = field(default_factory=LengthConfig)
    held_back: HeldBackConfig = field(default_factory=HeldBackConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(lr=None, epochs=1, packing=True))
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    mesh: MeshConfig = tunable(MeshConfig())
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0

    def __post_init__(self):
        check_seed(self.seed)
        names = (*METHODS, *LOSSES, *MIXTURES)
        check(self.method in names, "method", f"there is no method {self.method!r}",
              f"methods are {', '.join(METHODS)}; losses are {', '.join((*LOSSES, *MIXTURES))}")
        check(self.loss is None or self.method in ("dpo", "cpo", "orpo", "kto"), "loss",
              f"method {self.method} has one loss", "remove it")
        other = [name for name in self.loss or () if (name in UNPAIRED) != (self.method == "kto")]
        check(not other or not set(other) <= LOSSES.keys(), "loss", f"{', '.join(other)} is a loss of "
              f"{'pairs' if self.method == 'kto' else 'unpaired rows'}, and method {self.method} has none",
              f"set method to {'dpo' if self.method == 'kto' else 'kto'}")
        referring = [name for name in self.loss or () if self.method in ("cpo", "orpo") and name not in REFERENCE_FREE]
        check(not set(referring) & LOSSES.keys(), "loss", f"{', '.join(referring)} has a reference model, and method "
              f"{self.method} has none", f"set method to dpo, or leave it out: the default is {self.method}")
        check(self.loss_weights is None or len(self.loss_weights) == len(self.loss or []), "loss_weights",
              f"there are {len(self.loss or [])} losses and {len(self.loss_weights or [])} weights")
        check(self.loss is None or len(set(self.loss)) == len(self.loss) > 0, "loss",
              f"must name a loss or several different ones, got {self.loss}")
        check(0 <= self.centering < math.inf, "centering", f"must be 0 or more, got {self.centering:g}")
        if self.train.lr is None:
            adapter, whole = LEARNING_RATES[self.kind]
            object.__setattr__(self, "train", replace(self.train, lr=whole if self.lora is None else adapter))
        check_trained_weights(self.lora, self.device)
        every, save_every = self.held_back.every, self.train.save_every
        check(self.held_back.keep == "last" or every is None or save_every is None or every % save_every == 0,
              "train.save_every", f"must divide held_back.every ({every}), since every evaluated state is saved, got "
              f"{save_every}", "set it to null")
        objective = self.objective
        named = ", ".join(name for name, _ in objective.losses)
        check(not objective.coupled or self.train.accumulate == 1, "train.accumulate",
              f"the loss {named} compares all rows of a batch, which microbatches would separate", "set it to 1")
        check(not objective.mismatched or self.train.batch_size > 1, "train.batch_size",
              f"{named} needs other rows in the batch, and it is 1", "set it to 2 or more")
        self._check_use(objective)
        check(not objective.wpo or not {"aot", "aot_unpaired"} & dict(objective.losses).keys(), "preference.wpo",
              "weighs pairs, which this loss separates by sorting", "set it to false")

    def _check_use(self, objective: Objective) -> None:
        """Refuses settings that this method does not read."""
        of_pairs = f"weighs pairs or their tokens, and method {self.method} has none"
        no_reference = f"method {self.method} has no reference model"
        for used, key, reason in (
                (self.kind == "pairs" or not self.preference.wpo, "preference.wpo", of_pairs),
                (self.kind == "pairs" or self.preference.ld_alpha == 1, "preference.ld_alpha", of_pairs),
                (objective.reference != "none" or self.preference.ld_alpha == 1, "preference.ld_alpha", no_reference),
                (self.losses or not self.preference.settings.given(), "preference",
                 f"method {self.method} has no preference loss"),
                (objective.reference != "none" or self.reference.sync_every is None, "reference.sync_every",
                 no_reference),
                (objective.reference == "values" or self.reference.when != "before", "reference.when",
                 no_reference if objective.reference == "none" else
                 "the mismatched completions of kto differ from step to step, so that they cannot be run before"),
                (objective.reference != "none" or self.reference.when == "auto", "reference.when", no_reference),
                (self.kind == "sft" or self.turns == "all", "turns", "is a setting of sft"),
                (not objective.scores or self.lengths.max_prompt_length is None, "lengths.max_prompt_length",
                 f"method {self.method} drops longer rows and truncates none"),
                (self.kind == "reward" or not self.centering, "centering", "is a setting of reward models"),
                (self.kind == "classify" or self.labels is None, "labels", "is a setting of classifiers")):
            check(bool(used), key, reason, "remove it")
        check(self.labels is None or len(set(map(str, self.labels))) == len(self.labels), "labels",
              f"must be different, got {self.labels}")

    @property
    def losses(self) -> dict[str, float]:
        """Names and weights of the losses."""
        if self.loss is not None:
            return dict(zip(self.loss, self.loss_weights or [1.0] * len(self.loss), strict=True))
        name = METHODS[self.method][1] if self.method in METHODS else self.method
        return {} if name is None else mixture(name)

    @property
    def trains_in_place(self) -> bool:
        """Whether all weights are trained and nothing reads the base model's, so that a job has one copy of them."""
        return self.lora is None and self.objective.reference != "base"

    @property
    def kind(self) -> Kind:
        """Form of the rows."""
        if self.method in METHODS and not self.losses:
            return METHODS[self.method][0]
        return "unpaired" if self.losses.keys() & UNPAIRED else "pairs"

    @property
    def objective(self) -> Objective:
        """What is minimized.

        Raises:
            UserError: the losses do not fit together, or a setting does not fit them.
        """
        try:
            resolve(self.losses, self.preference.settings) if self.losses else None
        except ValueError as error:
            raise UserError(str(error), "preference") from None
        reference: Literal["none", "values", "base", "extra"] = "none"
        if self.losses.keys() - REFERENCE_FREE:
            before = "kto" not in self.losses and self.reference.when != "step"
            reference = "extra" if self.reference.sync_every is not None else "values" if before else "base"
        return Objective(self.kind, tuple(self.losses.items()), self.preference.settings, self.preference.wpo,
                         reference, self.centering)


@dataclass(frozen=True)
class Config(TuneConfig):
    """Fine-tunes a model on examples or preferences: supervised fine-tuning, reward models, classifiers, and the family
    of direct preference optimization.

    Args:
        data: rows {prompt, completion}, {messages} or {text} for sft; {prompt, chosen, rejected} or {chosen, rejected}
            for reward, dpo, orpo and cpo; {prompt, completion, label} for kto; {text, label} for classify. Texts or
            messages.
        out: directory for the results.
        model: checkpoint directory, GGUF file, Hub id, or tiny.
        save: output in DIR: the adapter, a model (with the adapter merged), or nothing.
        dry_run: compile a step, print the memory it needs and what becomes of the rows, and exit.
    """

    data: DataConfig
    out: Path
    model: str = "tiny"
    save: Literal["adapter", "model", "nothing"] = "adapter"
    dry_run: bool = False

    def __post_init__(self):
        super().__post_init__()
        check(self.save != "adapter" or self.lora is not None, "save",
              "all weights are trained, so there is no adapter", "set save to model or nothing")
        check(self.save != "model" or self.device.quantize is None, "save",
              "an adapter is not merged into quantized weights", "set save to adapter, and merge with jaxllm convert")
