"""Settings of `jaxllm inject` and of `self_param.inject`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxllm.config import DataConfig, SamplingConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig, MeshConfig
from jaxllm.finetune.distill import DivergenceConfig
from jaxllm.finetune.on_policy import OnPolicyConfig
from jaxllm.judge import JudgeConfig
from jaxllm.models import LoraConfig
from jaxllm.self_param.prompts import FormatConfig
from jaxllm.train.config import TrainConfig

Baseline = Literal["finetune", "finetune_questions", "finetune_context", "retrieval", "replay"]
Method = Literal["closed_book", "open_book", "self_param", "finetune", "finetune_questions", "finetune_context",
                 "retrieval", "replay"]


@dataclass(frozen=True)
class QAPairConfig:
    """QA pairs to train on; they are not the test questions.

    Args:
        source: "model": the model writes questions about the document in its prompt and answers them (temperature 0).
            "judge": the judge writes the pairs. "cloze": sentence completions and cloze questions are made from the
            document's sentences, without a model. Otherwise a file of rows {context, question, answers}.
        judge: judge that writes the pairs where source is judge.
        examples: rows {context, question, answers} placed before the document as worked examples (source model).
        per_document: maximum number of pairs of a document, or of each of its chunks.
        per_answer: maximum number of them with the same answer, those of the key cloze aside; null is no limit. Where
            most questions have one answer, the student gives it to all.
        samples: questions that the model samples for each (source model); null takes per_document. With more, the
            checks have a choice.
        answer_first: the model is given an answer, a name, a number or another phrase of the document, and writes a
            question that has it, so that no part of the document is left out. It answers the question itself; where
            per_answer leaves a choice, pairs with that answer are taken first (source model, prompts in chat mode;
            samples are spread over the phrases).
        closed_book_share: probability with which each token of an answer is drawn from the closed-book model, the same
            question without the document, instead of the open-book model (mixed contextual self-distillation, MixSD,
            2605.16865; source model). Targets are then closer to what the model writes by itself. 0 is off.
        cloze: cloze pairs added to those of the source, for a document or each of its chunks; one that the source
            cloze made already is not.
        question_gain: discard questions that fit any text: the document raises their log-probability, summed over
            their tokens, by less than this, in nats (source model); null is no check.
        answer_gain: discard pairs with an answer that the model gives without the document: the document raises its
            log-probability, summed over its tokens, by less than this, in nats (sources model, judge and cloze; not
            for given pairs and those of the key cloze); null is no check.
        temperature: sampling temperature of questions and of the judge's replies.
        grounded: discard pairs with an answer that is not a part of the document, word for word.
        min_answer: discard pairs with fewer letters and digits in the answer.
        max_tokens: maximum length of a question that the model writes.
        loss_on: "all" trains on question and answer (paper); "answer" masks the question.
        append_eos: append the end token to every answer; the paper never trains an end.
    """

    source: str = "model"
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    examples: str | None = None
    per_document: int = 48
    per_answer: int | None = None
    samples: int | None = None
    answer_first: bool = False
    closed_book_share: float = 0.0
    cloze: int = 0
    question_gain: float | None = None
    answer_gain: float | None = None
    temperature: float = 1.0
    grounded: bool = False
    min_answer: int = 1
    max_tokens: int = 32
    loss_on: Literal["all", "answer"] = "all"
    append_eos: bool = False

    def __post_init__(self):
        for name in ("per_document", "min_answer", "max_tokens"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")
        for name in ("samples", "per_answer"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, f"must be 1 or more, got {value}")
        check(not self.answer_first or self.source == "model", "answer_first", "is for questions that the model writes",
              "set source to model")
        check(0 <= self.closed_book_share < 1, "closed_book_share",
              f"must be 0 or more and below 1, got {self.closed_book_share:g}")
        check(not self.closed_book_share or self.source == "model", "closed_book_share",
              "is for answers that the model writes", "set source to model, or it to 0")
        check(self.cloze >= 0, "cloze", f"must be 0 or more, got {self.cloze}")
        check(self.temperature > 0, "temperature", f"must be above 0, got {self.temperature:g}",
              "at 0 the model would repeat one question")

    @property
    def sampled(self) -> int:
        """Questions that the model samples for a passage."""
        return self.samples or self.per_document

    @property
    def from_file(self) -> bool:
        """Whether the pairs are read from a file."""
        return self.source not in ("model", "judge", "cloze")


@dataclass(frozen=True)
class ChunkingConfig:
    """Chunking of documents that do not fit the context window together with their prompts.

    Args:
        tokens: maximum length of a chunk; null uses the whole context budget.
        overlap: fraction of a chunk that the next one repeats.
    """

    tokens: int | None = None
    overlap: float = 0.25

    def __post_init__(self):
        check(self.tokens is None or self.tokens >= 8, "tokens", f"must be 8 or more, got {self.tokens}")
        check(0 <= self.overlap <= 0.5, "overlap", f"must be between 0 and 0.5, got {self.overlap:g}")


@dataclass(frozen=True)
class UnrelatedConfig:
    """Text unrelated to the documents: targets that limit drift, and held-out texts that measure it.

    Args:
        path: rows {text}; null samples the texts from the model itself, without a prompt, at temperature 1.
        tokens: length to which each text is truncated.
        train: number of training texts.
        drift: number of held-out texts for drift_kl; never trained on.
        with_document: the teacher reads the document before the text (paper). false: teacher and student read the same
            text, which keeps the model as it is.
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
class RehearsalConfig:
    """Self-generated rehearsal data: closed-book QA pairs sampled before each injection; see mixture.rehearsal.

    Args:
        texts: number of samples at temperature 1; duplicates count once.
    """

    texts: int = 128

    def __post_init__(self):
        check(self.texts >= 1, "texts", f"must be 1 or more, got {self.texts}")


@dataclass(frozen=True)
class MixtureConfig:
    """Sampling ratio of the target types within one cycle (paper: 1:1:1:0).

    Args:
        qa: question with answer, from the open-book teacher.
        continuation: rest of the document after a random cut.
        unrelated: unrelated text, to limit drift.
        rehearsal: closed-book QA pairs that the model generated before the injection, to limit forgetting; not in the
            paper.
    """

    qa: int = 1
    continuation: int = 1
    unrelated: int = 1
    rehearsal: int = 0

    def __post_init__(self):
        for name in ("qa", "continuation", "unrelated", "rehearsal"):
            check(getattr(self, name) >= 0, name, f"must be 0 or more, got {getattr(self, name)}")
        check(bool(self.cycle), "qa", "all target types are 0")

    @property
    def cycle(self) -> tuple[str, ...]:
        """Target types of one cycle, in order."""
        return tuple(name for name in ("qa", "continuation", "unrelated", "rehearsal")
                     for _ in range(getattr(self, name)))


@dataclass(frozen=True)
class LocalityConfig:
    """Locality probes: questions on related topics that no injected document answers; their answers should not change.

    Args:
        path: rows {question}; null takes questions of documents of the data that are not injected (setting single:
            of the other documents). A test question of a document of the same model, word for word, is left out.
        questions: maximum number of probes; 0 disables them.
    """

    path: str | None = None
    questions: int = 100

    def __post_init__(self):
        check(self.questions >= 0, "questions", f"must be 0 or more, got {self.questions}")


@dataclass(frozen=True, kw_only=True)
class InjectConfig:
    """How documents are injected: QA pairs, targets, objective and optimizer (SELF-PARAM, 2410.00487).

    Args:
        qa_pairs: QA pairs to train on.
        chunking: chunking of long documents.
        unrelated: unrelated text against drift.
        rehearsal: self-generated rehearsal data.
        mixture: ratio of the target types.
        divergence: divergence between teacher and student.
        on_policy: training on the student's own answers; off in the paper.
        train: steps and optimizer of one injection.
        lora: adapter; null trains all weights.
        format: prompt templates.
        sampling: decoding of generated answers.
        generation_batch_size: sequences decoded together; does not change the results.
        mesh: how the devices share a step.
        device: dtypes; params "auto" is float32 in sequential injection, where adapters are merged into the weights.
        seed: seed of all random draws.
    """

    qa_pairs: QAPairConfig = field(default_factory=QAPairConfig)
    chunking: ChunkingConfig = field(default_factory=ChunkingConfig)
    unrelated: UnrelatedConfig = field(default_factory=UnrelatedConfig)
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    on_policy: OnPolicyConfig = field(default_factory=OnPolicyConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(lr=1e-3))
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    format: FormatConfig = field(default_factory=FormatConfig)
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(temperature=0.0, max_tokens=16, stop=["\n"]))
    generation_batch_size: int = tunable(64)
    mesh: MeshConfig = tunable(MeshConfig())
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0

    def __post_init__(self):
        check(self.train.lr is not None, "train.lr", "must be a number")
        check(not self.on_policy.share or self.mixture.qa > 0, "on_policy.share",
              "needs QA targets, and mixture.qa is 0", "raise mixture.qa, or set it to 0")
        changes = self.on_policy.teacher != "frozen"
        check(not changes or not isinstance(self.divergence.top_k, int), "on_policy.teacher",
              f"{self.on_policy.teacher} changes in every step, and divergence.top_k caches the teacher's outputs",
              "set divergence.top_k to null, or the teacher to frozen")
        check(not changes or self.lora is not None, "on_policy.teacher",
              f"{self.on_policy.teacher} needs an adapter, and lora is null", "train an adapter, or set it to frozen")
        check(self.qa_pairs.examples is None or (self.qa_pairs.source == "model" and self.mixture.qa > 0),
              "qa_pairs.examples", "are only used where the model writes QA pairs",
              "set qa_pairs.source to model and mixture.qa above 0, or examples to null")
        check(self.lora is not None or self.device.params != "bfloat16", "device.params",
              "bfloat16 weights lose most updates when all of them are trained", "train an adapter, or use float32")
        check(self.lora is not None or self.device.quantize is None, "device.quantize",
              "quantized weights are frozen, and lora is null", "train an adapter, or do not quantize")
        check(self.sampling.n == 1, "sampling.n", f"must be 1, got {self.sampling.n}")
        check(self.generation_batch_size >= 1, "generation_batch_size",
              f"must be 1 or more, got {self.generation_batch_size}")
        check_seed(self.seed)


@dataclass(frozen=True)
class Config(InjectConfig):
    """Injects documents into the weights of a model and measures what it learned and what it forgot (SELF-PARAM).

    The student learns by KL distillation from a teacher, the same model with the document in its prompt
    (2410.00487). Test questions of the data are answered closed-book, open-book and after injection.

    Args:
        data: rows {context, question, answers}; rows with the same context are one document.
        out: directory for the results.
        model: checkpoint directory, GGUF file, Hub id, or tiny.
        setting: single injects every document into a fresh copy of the model; batch injects all documents together;
            sequential injects one after the other into one model, merging each adapter before the next.
        documents: number of documents to inject; null takes all.
        paraphrases: rows {context, question, answers} with paraphrases of test questions; never trained on.
        portability: rows {context, question, answers} with questions that combine the document with something that the
            model knows; never trained on.
        teacher: weights of the teacher in sequential injection. "latest" (paper): the current merged model. "base": the
            original checkpoint, which costs one more forward pass per step.
        compare: baselines to run as well. finetune: next-token prediction on the same targets; finetune_questions: on
            the QA pairs alone; finetune_context: on the document alone; retrieval: BM25 puts a document into the prompt
            (batch, sequential); replay: distillation that revisits earlier documents every other cycle (sequential).
        locality: probes that measure changes of unrelated answers.
        save: output of every injection, in adapters/ or models/.
        dry_run: compile a training step for a document of this many tokens, print the memory it needs, and exit; no
            weights are read and nothing is written.
    """

    data: DataConfig
    out: Path
    model: str = "tiny"
    setting: Literal["single", "batch", "sequential"] = "single"
    documents: int | None = None
    paraphrases: str | None = None
    portability: str | None = None
    teacher: Literal["latest", "base"] = "latest"
    compare: list[Baseline] = field(default_factory=list)
    locality: LocalityConfig = field(default_factory=LocalityConfig)
    save: Literal["adapter", "model", "nothing"] = "adapter"
    dry_run: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check(self.dry_run is None or self.dry_run >= 3, "dry_run", f"must be 3 or more, got {self.dry_run}")
        check(self.documents is None or self.documents >= 1, "documents", f"must be 1 or more, got {self.documents}")
        for name, settings in (("retrieval", ("batch", "sequential")), ("replay", ("sequential",))):
            check(name not in self.compare or self.setting in settings, "compare",
                  f"{name} is not defined for setting {self.setting}", f"set setting to {' or '.join(settings)}")
        check("finetune_questions" not in self.compare or self.mixture.qa > 0, "compare",
              "finetune_questions needs QA pairs, and mixture.qa is 0", "raise mixture.qa")
        check(self.teacher == "latest" or self.on_policy.teacher == "frozen", "on_policy.teacher",
              f"{self.on_policy.teacher} is another teacher than base", "set teacher to latest, or this to frozen")
        check(self.setting == "sequential" or self.teacher == "latest", "teacher",
              f"base and latest are the same for setting {self.setting}", "remove it")
        if self.setting != "single":
            check(self.lora is not None, "lora", f"setting {self.setting} stores injections as adapters, and lora is "
                  "null", "set lora.rank, or setting to single")
            check(self.save == "adapter", "save", f"setting {self.setting} stores injections as adapters",
                  "remove it; jaxllm convert --merge makes a model of them")
        check(self.save != "adapter" or self.lora is not None, "save",
              "all weights are trained, so there is no adapter", "set save to model or nothing")
        check(self.save != "model" or self.device.quantize is None, "save",
              "an adapter is not merged into quantized weights", "set save to adapter, and merge with jaxllm convert")
