"""The pairs that every passage is written with, made once for a job."""

from __future__ import annotations

from collections.abc import Sequence

from jaxllm.files import read_jsonl, write_jsonl
from jaxllm.finetune.targets import purpose_seed
from jaxllm.job import Job
from jaxllm.judge import open_judge
from jaxllm.model import Model
from jaxllm.progress import bar
from jaxllm.self_param.asking import judge_source
from jaxllm.self_param.config import Config
from jaxllm.self_param.documents import Document
from jaxllm.self_param.questions import QuestionAnswer, QuestionSource, collect, model_source
from jaxllm.self_param.room import fits


def training_pairs(config: Config, job: Job, model: Model, documents: Sequence[Document],
                   source: QuestionSource | None, examples: str = "") -> list[list[list[QuestionAnswer]]]:
    """Pairs to train on, by document and passage; kept in pairs.jsonl, so that a resumed job learns from the same."""
    if not config.mixture.qa:
        return [[[] for _ in document.passages] for document in documents]
    kept = read_jsonl(job.directory / "pairs.jsonl") if job.resumed else []
    owners = [number for number, document in enumerate(documents) for _ in document.passages]
    if kept:
        pairs = [[(pair["question"], pair["answer"]) for pair in row["pairs"]] for row in kept]
    else:
        pairs = _made_pairs(config, model, documents, owners, source, examples)
        write_jsonl(job.directory / "pairs.jsonl",
                    ({"document": number, "window": i - owners.index(number),
                      "pairs": [{"question": q, "answer": a} for q, a in own]}
                     for i, (number, own) in enumerate(zip(owners, pairs, strict=True))))
    by_document: list[list[list[QuestionAnswer]]] = [[] for _ in documents]
    for number, own in zip(owners, pairs, strict=True):
        by_document[number].append(own)
    return by_document


def _made_pairs(config: Config, model: Model, documents: Sequence[Document], owners: Sequence[int],
                source: QuestionSource | None, examples: str) -> list[list[QuestionAnswer]]:
    """Pairs of every passage, from whoever is to make them."""
    texts, limit = [text for document in documents for text in document.passages], config.questions.per_document
    if config.questions.source == "model":
        with bar(len(texts) * limit, "questions", "samples") as advance:
            source = model_source(model, config.format, config.questions, config.sampling.max_tokens,
                                  purpose_seed(config.seed, "questions"), batch_size=64,
                                  dtype=config.device.compute_dtype, examples=examples, on_sample=advance)
            return collect(source, texts, config.questions, owners)
    if config.questions.source == "judge":
        with bar(len(texts), "questions", "documents") as advance:
            judge = open_judge(config.questions.judge, config.device)
            written = judge_source(judge, config.questions, purpose_seed(config.seed, "questions"), advance)
            fit = fits(config, model, [])
            return collect(lambda texts: [[pair for pair in own if fit(text, *pair)]
                                          for text, own in zip(texts, written(texts), strict=True)],
                           texts, config.questions, owners)

    def dealt(_: Sequence[str]) -> list[list[QuestionAnswer]]:
        """A pair of a document goes to the passage that is nearest to its question, of those with the answer."""
        found: list[list[QuestionAnswer]] = []
        for document, pairs in zip(documents, source([document.text for document in documents]), strict=True):
            own: list[list[QuestionAnswer]] = [[] for _ in document.passages]
            for pair in pairs:
                own[document.nearest(*pair)].append(pair)
            found += own
        return found

    return collect(dealt, texts, config.questions, owners)
