"""Settings of `jaxllm inject`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxllm.config import DataConfig, SamplingConfig, check, check_seed
from jaxllm.devices import DeviceConfig, MeshConfig
from jaxllm.finetune.distill import DivergenceConfig
from jaxllm.finetune.on_policy import OnPolicyConfig
from jaxllm.models import LoraConfig
from jaxllm.self_param.documents import FormatConfig
from jaxllm.self_param.questions import QuestionConfig
from jaxllm.self_param.streams import MixtureConfig
from jaxllm.self_param.windows import WindowConfig
from jaxllm.train.config import TrainConfig


@dataclass(frozen=True)
class UnrelatedConfig:
    """Text that has nothing to do with the documents: a stream of targets, and the measure of drift.

    Args:
        path: rows {text}; null lets the model write it itself, from nothing, at temperature 1.
        tokens: each text is cut after so many.
        train: texts of the stream.
        drift: texts that drift is measured on; none of them is in the stream.
        with_document: the teacher reads the document before such a text, as in the paper; false lets it read the
            text alone, so that the model is asked to stay as it is.
    """

    path: str | None = None
    tokens: int = 64
    train: int = 128
    drift: int = 32
    with_document: bool = True

    def __post_init__(self):
        for name in ("tokens", "train", "drift"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class RecallConfig:
    """What the model knows before an injection, as it tells it itself; see mixture.recall.

    Args:
        texts: questions with answers that it is let make, at temperature 1; doubled ones count once.
    """

    texts: int = 128

    def __post_init__(self):
        check(self.texts >= 1, "texts", f"must be 1 or more, got {self.texts}")


@dataclass(frozen=True)
class LocalityConfig:
    """Questions that are near the documents' and not about them; their answers should stay what they were.

    Args:
        path: rows {question}; by default the questions of the data's documents that are not written, or, where each
            is written into its own copy of the model, of the others.
        questions: at most so many; 0 asks none.
    """

    path: str | None = None
    questions: int = 100

    def __post_init__(self):
        check(self.questions >= 0, "questions", f"must be 0 or more, got {self.questions}")


@dataclass(frozen=True)
class Config:
    """Writes documents into a model's weights (SELF-PARAM, 2410.00487): each into a fresh copy of the model, all into
    one, or one after the other. `jaxllm remove DOCUMENT --out DIR` takes one of the last kind out again.

    Before, after, and with the document in the prompt, the model answers the questions of the data. It learns
    from other pairs (questions.source), by KL distillation from itself reading the document.

    Args:
        data: rows {context, question, answers}; rows with the same context are one document.
        out: directory for the results.
        model: checkpoint directory, Hub id, or tiny.
        setting: single writes every document into a fresh copy of the model, batch all of them together into one,
            sequential one after the other into one, each adapter merged before the next is trained.
        documents: only so many documents; null takes all.
        paraphrases: rows {context, question, answers} that ask in other words what the data's rows ask; part of the
            test, never learned from.
        questions: the pairs that a document is written with.
        windows: how documents are cut that are too long to be read at once.
        unrelated: text against drift.
        recall: what the model knew before.
        mixture: how the kinds of targets take turns.
        reader: which model reads the documents when several are written one after the other: latest, as in the paper,
            is the model as the injections before have made it; base the one that they began with, whose reading they
            have not touched. The step of base has one more forward pass.
        divergence: what is minimized.
        on_policy: pairs that the student answers itself while it learns; off, as in the paper.
        train: steps and optimizer, of every injection: of a document, or in batch of all of them.
        lora: adapter that is trained and merged; null trains all weights.
        format: wording of documents, questions and answers.
        sampling: of the answers in the test.
        finetune: also train on the same targets by plain next-token prediction, for comparison.
        compare: what else is run beside it: finetune_questions trains on the pairs alone by plain next-token
            prediction, finetune_context on the documents' own text; retrieval trains nothing and puts the document
            that BM25 finds before the question (batch and sequential); replay also distils the earlier documents
            again, every other turn (sequential).
        locality: questions whose answers should not change.
        save: what is kept of every document, below adapters/ or models/.
        mesh: how the devices share a training step.
        device: precision.
        seed: of everything that is drawn.
        dry_run: compiles a training step for a document of so many tokens, says what it takes, and ends: no weights are
            read and nothing is written.
    """

    data: DataConfig
    out: Path
    model: str = "tiny"
    setting: Literal["single", "batch", "sequential"] = "single"
    documents: int | None = None
    paraphrases: str | None = None
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    unrelated: UnrelatedConfig = field(default_factory=UnrelatedConfig)
    recall: RecallConfig = field(default_factory=RecallConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    reader: Literal["latest", "base"] = "latest"
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    on_policy: OnPolicyConfig = field(default_factory=OnPolicyConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(lr=1e-3))
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    format: FormatConfig = field(default_factory=FormatConfig)
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(temperature=0.0, max_tokens=16, stop=["\n"]))
    finetune: bool = True
    compare: list[Literal["finetune_questions", "finetune_context", "retrieval", "replay"]] = field(
        default_factory=list)
    locality: LocalityConfig = field(default_factory=LocalityConfig)
    save: Literal["adapter", "model", "nothing"] = "adapter"
    mesh: MeshConfig = field(default_factory=MeshConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0
    dry_run: int | None = None

    def __post_init__(self):
        check(self.dry_run is None or self.dry_run >= 3, "dry_run", f"must be 3 or more, got {self.dry_run}")
        check(self.documents is None or self.documents >= 1, "documents", f"must be 1 or more, got {self.documents}")
        for name, settings in (("retrieval", ("batch", "sequential")), ("replay", ("sequential",))):
            check(name not in self.compare or self.setting in settings, "compare",
                  f"{name} means nothing in the setting {self.setting}", f"set setting to {' or '.join(settings)}")
        check("finetune_questions" not in self.compare or self.mixture.qa > 0, "compare",
              "finetune_questions has no pairs where mixture.qa is 0", "give mixture.qa a share")
        check(not self.on_policy.share or self.mixture.qa > 0, "on_policy.share",
              "there are no pairs to answer where mixture.qa is 0", "give mixture.qa a share, or set it to 0")
        check(not self.on_policy.share or self.divergence.top_k is None, "on_policy.share",
              "the teacher has to be asked in every step about what the student says",
              "set divergence.top_k to null, or it to 0")
        check(self.questions.examples is None or (self.questions.source == "model" and self.mixture.qa > 0),
              "questions.examples", "are for a model that asks itself", "set questions.source to model, or it to null")
        check(self.setting == "sequential" or self.reader == "latest", "reader",
              f"base and latest are the same in the setting {self.setting}", "leave it at latest")
        check(self.setting == "single" or self.lora is not None, "lora", "documents in one model are kept as adapters, "
              "one an injection, and all weights are to be trained", "set lora.rank, or setting to single")
        check(self.setting == "single" or self.save == "adapter", "save", "documents in one model are kept as adapters",
              "leave it at adapter; jaxllm convert --merge makes a model of them")
        check(self.save != "adapter" or self.lora is not None, "save",
              "there is no adapter when all weights are trained", "set save to model or nothing")
        check(self.lora is not None or self.device.params != "bfloat16", "device.params",
              "bfloat16 weights lose most updates when all of them are trained", "train an adapter, or use float32")
        check(self.lora is not None or self.device.quantize is None, "device.quantize",
              "quantized weights are frozen, and all are to be trained", "train an adapter, or quantize nothing")
        check(self.sampling.n == 1, "sampling.n", f"a question is answered once in the test, got {self.sampling.n}")
        check_seed(self.seed)
