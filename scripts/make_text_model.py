"""Trains a small language model from scratch on texts and on passages with questions, for documents of real text.

    python scripts/make_text_model.py --texts wikitext2.jsonl.gz --reading xquad_en.jsonl.gz nq_passages.jsonl.gz \\
        --out runs/text_model [--steps 1000] [--width 192] [--layers 4]

Texts are rows {text}, passages {context, question, answers, context_id?}. Every tenth passage is held out, and those of
every file are written to OUT/heldout/ for `jaxllm inject --data.path`. The format is that of
`jaxllm inject`: a passage, then lines `Question: ... Answer: ...`. The training loss and the token F1 on held-out
passages are in OUT/training.json. The defaults are for CPU cores and make a model that imitates its texts and answers
few questions open-book; on a GPU use `--width 768 --layers 12 --steps 100000` and more text.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from jaxllm.config import SamplingConfig
from jaxllm.evaluate.qa import score_answer
from jaxllm.files import write_jsonl
from jaxllm.generate import Generator
from jaxllm.model import load
from jaxllm.models import ModelSpec, Params, Rope, forward, init_params, save_model, unembedding
from jaxllm.ops import cross_entropy
from jaxllm.self_param import FormatConfig, Prompts, answer_questions
from jaxllm.self_param.data import Document, group_rows
from jaxllm.text.batches import pack
from jaxllm.text.rows import read_rows
from jaxllm.train import fit, init_state, make_mesh, make_optimizer, make_train_step, row_indices
from jaxllm.train.config import TrainConfig

CONTROL = ("<pad>", "<s>", "</s>")
BOS, EOS = 1, 2
ANSWER_WEIGHT = 5.0  # loss weight of an answer's tokens, which are few
HELD_OUT = 10  # every tenth passage
FORMAT = FormatConfig()


def split(path: Path) -> tuple[list[Document], list[Document]]:
    """Reads passages to train on, and every tenth, held out; passages of one `context_id` stay together."""
    rows = read_rows(str(path), {"context": str, "question": str, "answers": list[str]}).rows
    of = lambda row: row.get("context_id", row["context"])
    held = set(list(dict.fromkeys(map(of, rows)))[::HELD_OUT])
    select = lambda is_held: group_rows([row for row in rows if (of(row) in held) == is_held])
    return select(False), select(True)


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(CONTROL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)])
    return tokenizer


def rows_of(tokenizer: Tokenizer, texts: list[str], documents: list[Document], length: int):
    """Builds packed rows: tokens, segments and loss weights, each `[N, length]`."""
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    sequences: list[tuple[list[int], list[float]]] = []
    for text in texts:
        ids = encode(text)
        for start in range(0, len(ids), length - 1):
            part = [BOS, *ids[start:start + length - 1]]
            sequences.append((part, [1.0] * len(part)))
    for document in documents:
        ids = [BOS, *encode(FORMAT.context_text(document.text))]
        weights = [1.0] * len(ids)
        for pair in document.questions:
            question = encode(FORMAT.question_text(pair.question))
            answer = encode(FORMAT.answer.replace("{answer}", pair.answers[0]))
            ids = ids + question + answer
            weights = weights + [1.0] * len(question) + [ANSWER_WEIGHT] * len(answer)
        sequences.append((ids[:length], weights[:length]))
    packed = pack([ids for ids, _ in sequences], length, {"weights": [weights for _, weights in sequences]})
    return packed.tokens, packed.segments, packed.carried["weights"].astype(np.float32)


def train(spec: ModelSpec, rows, config: TrainConfig, seed: int) -> tuple[Params, float]:
    """Trains the model; returns its weights and the loss of the last step."""
    def loss(params, frozen, batch, key, extra):
        del frozen, key
        hidden = forward(spec, params, batch["tokens"], segments=batch["segments"], remat="full").hidden[:, :-1]
        follows = batch["segments"][:, 1:] == batch["segments"][:, :-1]  # never from one text to the next
        weights = batch["weights"][:, 1:] * follows * (batch["segments"][:, 1:] > 0)
        return cross_entropy(hidden, unembedding(spec, params), batch["tokens"][:, 1:], weights), {}

    def batch(step: int) -> dict[str, np.ndarray]:
        chosen = row_indices(seed, step, config.batch_size, len(rows[0]))
        return dict(zip(("tokens", "segments", "weights"), (part[chosen] for part in rows), strict=True))

    optimizer = make_optimizer(config, config.steps)
    state = init_state(init_params(spec, jax.random.key(seed)), optimizer, seed)
    done = fit(state, make_train_step(loss, optimizer), batch, config.steps, mesh=make_mesh())
    if done.interrupted:
        raise SystemExit("stopped")
    return done.state.params, done.metrics["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="*", default=[])
    parser.add_argument("--reading", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=3e-3)
    for name, value in (("steps", 1000), ("width", 192), ("layers", 4), ("length", 512), ("vocabulary", 4096),
                        ("batch", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    texts = [row["text"] for path in options.texts for row in read_rows(path, {"text": str}).rows]
    reading = {path.name.split(".")[0]: split(path) for path in options.reading}
    held_out = {name: held for name, (_, held) in reading.items()}
    trained = [document for own, _ in reading.values() for document in own]
    tokenizer = train_tokenizer([*texts, *(document.text for document in trained),
                                 *(pair.question for document in trained for pair in document.questions)],
                                options.vocabulary)
    spec = ModelSpec("llama", tokenizer.get_vocab_size(), options.width, layers=options.layers,
                     heads=options.width // 32, kv_heads=options.width // 32, head_dim=32,
                     mlp_width=3 * options.width, max_positions=options.length, rope=Rope(10_000.0), bos_id=BOS,
                     eos_ids=(EOS,))
    rows = rows_of(tokenizer, texts, trained, options.length)
    config = TrainConfig(lr=options.rate, steps=options.steps, batch_size=options.batch, weight_decay=0.01,
                         warmup_steps=min(100, options.steps // 10))
    params, loss = train(spec, rows, config, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(f"{folder}/tokenizer.json")
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
             "pad_token": "<pad>", "model_max_length": options.length}))
        save_model(options.out, spec, params, tokenizer_source=folder)
    model = load(str(options.out))
    (options.out / "heldout").mkdir()
    for name, documents in held_out.items():
        write_jsonl(options.out / "heldout" / f"{name}.jsonl",
                    [{"context": document.text, "question": pair.question, "answers": list(pair.answers)}
                     for document in documents for pair in document.questions])
    generator, prompts = Generator(model, dtype=np.dtype("float32")), Prompts(model, FORMAT)

    def open_book_f1(documents: list[Document]) -> float:
        short = [document for document in documents
                 if len(model.tokenizer.encode(document.text)) < options.length - 80][:100]
        pairs = [(document.text, pair) for document in short for pair in document.questions]
        answers = answer_questions(generator, prompts, [(text, pair.question) for text, pair in pairs],
                                   SamplingConfig(temperature=0.0, max_tokens=16, stop=["\n"]))
        return float(np.mean([score_answer(answer, pair.answers).f1
                              for answer, (_, pair) in zip(answers, pairs, strict=True)]))

    summary = {"steps": options.steps, "seed": options.seed, "loss": loss,
               "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
               "held-out passages": {name: len(documents) for name, documents in held_out.items()},
               "open-book token F1": {name: open_book_f1(documents) for name, documents in held_out.items()}}
    (options.out / "training.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
