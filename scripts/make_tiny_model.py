"""Trains the packaged model `tiny` and writes its tokenizer, weights, held-out data and model card.

    python scripts/make_tiny_model.py --out jaxllm/assets/tiny --minutes 60

Trains from scratch on the texts of `tiny_world.py`, on the device that jax selects; a laptop's CPU is enough. The
trained model is evaluated on held-out text, with the library's own generation, and the scores are written into the
card. A run can be continued (`--start_from`, another `--seed`).

These choices help a network of a million parameters to learn all this: names made of syllables that are tokens; a loss
that counts mostly the answers; small batches, many steps, and Muon on the matrices; letters of options first, by
themselves, until the model attends to the options; then passages with more and more facts; and lessons weighted by
their remaining error.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import shutil
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tiny_measure
import tiny_tables
import tiny_world
from optax.contrib import MuonDimensionNumbers, muon
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from jaxllm.model import load
from jaxllm.models import ModelSpec, Rope, forward, init_params, load_model, save_model, unembedding, unstack_layers
from jaxllm.ops.losses import cross_entropy
from jaxllm.text.batches import pack

CONTROL = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
BOS, EOS = CONTROL.index("<s>"), CONTROL.index("</s>")
# A piece is a line end, a digit, or a word with the blank before it. No piece crosses a span boundary.
PIECES = r"\n|\p{N}|'s| ?\p{L}+| ?[^\s\p{L}\p{N}]+|[^\S\n]+(?!\S)|[^\S\n]+"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% generation %}{{ ' ' + message['content'] | trim + '</s>' }}{% endgeneration %}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Share of each role in the loss. Names recur in passages and questions: predicting them there is how the model first
# learns to attend to earlier text, so these count too. `given` is drawn at random and can hardly be predicted.
WEIGHTS = {"control": 0.1, "context": 0.3, "question": 0.3, "given": 0.03, "text": 0.5, "answer": 1.0, "stop": 1.0}

VOCABULARY = 1280
SHAPE = dict(width=128, layers=4, heads=4, kv_heads=4, head_dim=32, mlp_width=384, max_positions=512)
# A short base: the model attends a few sentences back, and longer wavelengths would only be noise.
ROPE_THETA = 500.0
# (length, rows) of a batch. Small batches: on a CPU the number of steps is the limit.
LETTERS, USUAL, LONG = (64, 16), (224, 8), (512, 4)
LONG_EVERY = 15
CHAT_SHARE = 0.18
MATRIX_RATE, OTHER_RATE, WARMUP_STEPS = 0.01, 2e-3, 50
CONTINUED_RATE = 0.4  # learning rate of a run that continues another, relative to the above
# Letters come first, until this accuracy is reached or this share of the time has passed.
LETTERS_MARK, LATEST_LETTERS = 0.9, 0.08
# The level rises when this accuracy is reached, and at the latest between these shares of the time.
PASS_MARK, LEVEL_STEP, LATEST_LEVEL = 0.85, 0.1, (0.25, 0.6)
LEAST_SHARE = 0.2  # smallest share of a lesson's weight, once it is learned
REPORT_SECONDS = 30
HELDOUT_SEED = 1
DECAY = 0.6  # last share of the time, over which the rates fall


# --- tokenizer ----------------------------------------------------------------------------------------------------


def train_tokenizer(seed: int, texts: int = 3000) -> Tokenizer:
    """Trains byte-level BPE on the world's words, with the syllables of its names as tokens."""
    world = tiny_world.World(seed)
    name = re.compile(rf"\b(?:{'|'.join(tiny_tables.FIRST)})(?:{'|'.join(tiny_tables.REST)}){{1,2}}\b")
    lessons = world.rng.choices(list(tiny_world.SHARES), tiny_world.SHARES.values(), k=texts)
    words = [name.sub("", "".join(text for text, _ in world.lesson(lesson))) for lesson in lessons]
    syllables = [blank + s for s in tiny_tables.FIRST for blank in ("", " ")] + tiny_tables.REST
    # Counted far above any word, so merged first; and their open parts twice as often, so that a closing consonant
    # joins the vowel before it only where no vowel follows.
    syllables += [s[:3] if s.startswith(" ") else s[:2] for s in syllables]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(CONTROL), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(words + ["\n".join(syllables)] * (20 * texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
              "pad_token": "<pad>", "model_max_length": SHAPE["max_positions"], "clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)


# --- training -----------------------------------------------------------------------------------------------------


def encode(tokenizer: Tokenizer, spans, length: int):
    """Returns (ids, loss weight of each id) of one example, truncated at `length`."""
    ids, weights = [BOS], [0.0]
    for text, role in [*spans, ("</s>", "control")]:
        control = role in ("control", "stop")
        new = [CONTROL.index(text)] if control else tokenizer.encode(text, add_special_tokens=False).ids
        ids += new
        weights += [WEIGHTS[role]] * len(new)
    return ids[:length], weights[:length]


class Stream:
    """Batches of packed lessons; lessons of a row do not attend to each other."""

    def __init__(self, world: tiny_world.World, tokenizer: Tokenizer):
        self.world, self.tokenizer, self.rows = world, tokenizer, collections.defaultdict(collections.deque)
        lesson = lambda name: encode(tokenizer, world.lesson(name), USUAL[0])[0]
        self.lengths = {name: np.mean([len(lesson(name)) for _ in range(30)]) for name in tiny_world.SHARES}

    def batch(self, shape: tuple[int, int], weights: dict[str, float], level: float):
        """Returns tokens, segments and loss weights, each `[rows, length]`; `weights` are shares of the tokens."""
        length, count = shape
        rows = self.rows[shape]
        while len(rows) < count:
            lessons = [encode(self.tokenizer, self._spans(length, weights, level), length) for _ in range(4 * count)]
            packed = pack([ids for ids, _ in lessons], length, {"weights": [w for _, w in lessons]})
            made = list(zip(packed.tokens, packed.segments, packed.carried["weights"], strict=True))
            # First-fit puts short lessons into the last rows: unshuffled, batches would differ in their lessons.
            self.world.rng.shuffle(made)
            rows += made
        return tuple(np.stack(part) for part in zip(*(rows.popleft() for _ in range(count)), strict=True))

    def _spans(self, length: int, weights: dict[str, float], level: float):
        rng = self.world.rng
        if length == LONG[0]:  # several passages in a row
            return [span for _ in range(rng.randint(2, 4)) for span in self.world.reading(level)]
        counts = [weight / self.lengths[name] for name, weight in weights.items()]
        spans = self.world.lesson(rng.choices(list(weights), counts)[0], level)
        return self.world.chat(spans) if length != LETTERS[0] and rng.random() < CHAT_SHARE else spans


class Curriculum:
    """Order of lessons: letters alone, then all lessons, weighted by the error on held-out answers."""

    def __init__(self, over: bool):
        self.letters, self.level, self.right = not over, float(over), {}

    def weights(self) -> dict[str, float]:
        """Returns the share of the tokens for each lesson."""
        if self.letters:
            return {"option": 1.0}
        known = {name: (self.right.get(name, 0.0) - guess) / (1 - guess)
                 for name, guess in tiny_world.GUESSING.items()}
        weights = {name: share * max(LEAST_SHARE, 1 - known.get(name, 0.0))
                   for name, share in tiny_world.SHARES.items()}
        # Reading needs no other lesson, and many lessons need it.
        weights["reading"] = tiny_world.SHARES["reading"] * (2 - self.level)
        return weights

    def advance(self, done: float, right: dict[str, float]) -> None:
        """Updates the curriculum with accuracies measured when the share `done` of the time has passed."""
        self.right = right
        if self.letters:
            self.level = min(1.0, self.level + (right["option"] > PASS_MARK) / 2)
            if right["option"] > LETTERS_MARK and self.level == 1.0 or done > LATEST_LETTERS:
                self.letters, self.level = False, 0.0
            return
        earliest = (done - LATEST_LEVEL[0]) / (LATEST_LEVEL[1] - LATEST_LEVEL[0])
        self.level = min(1.0, max(self.level + LEVEL_STEP * (right["reading"] > PASS_MARK), earliest))


def make_step(spec: ModelSpec, easy: jax.Array):
    """Returns (optimizer, step, accuracy): `step(params, state, batch, rate)` with `rate` relative to the peak.

    `easy` are tokens that `accuracy` leaves out."""

    def matrices(params):
        return jax.tree.map(lambda p: MuonDimensionNumbers(1, 2) if p.ndim == 3 else None, params)

    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        muon(MATRIX_RATE, adam_learning_rate=OTHER_RATE, adam_b2=0.98, weight_decay=0.01, adam_weight_decay=0.01,
             muon_weight_dimension_numbers=matrices))

    def loss(params, batch):
        tokens, segments, weights = batch
        # Unrolled, the backward pass does not write every layer's gradient into a slice of the stack.
        hidden = forward(spec, unstack_layers(params), tokens, segments=segments).hidden[:, :-1]
        total, weight = cross_entropy(hidden, unembedding(spec, params), tokens[:, 1:], weights[:, 1:])
        return total / weight

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch, rate):
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, jax.tree.map(lambda u: rate * u, updates)), state, value

    @jax.jit
    def accuracy(params, batch):
        """Computes the argmax accuracy on answer tokens, without the blanks and line ends, which are easy."""
        tokens, segments, weights = batch
        hidden = forward(spec, unstack_layers(params), tokens, segments=segments).hidden[:, :-1]
        logits = unembedding(spec, params).logits(hidden)
        answer = (weights[:, 1:] == 1.0) & ~jnp.isin(tokens[:, 1:], easy)
        return jnp.sum((jnp.argmax(logits, -1) == tokens[:, 1:]) & answer) / jnp.sum(answer)

    return optimizer, step, accuracy


def train(tokenizer: Tokenizer, minutes: float, seed: int, start_from: Path | None, save, save_every: float = 5.0):
    """Trains for `minutes`; returns (spec, params, minutes, tokens), which `save` gets every `save_every` minutes.

    With `start_from` training continues from its weights: without curriculum, and with lower rates that fall from the
    start. The rate depends on the elapsed time, so a slow machine completes the schedule with a weaker model."""
    spec = ModelSpec(family="llama", vocab_size=tokenizer.get_vocab_size(), norm_eps=1e-5, rope=Rope(ROPE_THETA),
                     bos_id=BOS, eos_ids=(EOS,), **SHAPE)
    if start_from is None:
        peak, decay, params = 1.0, DECAY, jax.jit(partial(init_params, spec))(jax.random.key(seed))
    else:
        peak, decay, params = CONTINUED_RATE, 1.0, load_model(start_from)[1]
    easy = jnp.array([EOS] + [tokenizer.encode(text, add_special_tokens=False).ids[0] for text in ("\n", " ")])
    optimizer, step, accuracy = make_step(spec, easy)
    state = jax.jit(optimizer.init)(params)
    stream = Stream(tiny_world.World(seed), tokenizer)
    curriculum = Curriculum(over=start_from is not None)
    print(f"{sum(p.size for p in jax.tree.leaves(params)):,} parameters, {minutes:g} minutes", flush=True)

    def measure_lessons():
        # The same held-out lessons each time, so that accuracies are comparable.
        names = ["option"] if curriculum.letters else tiny_world.GUESSING
        check = Stream(tiny_world.World(seed, heldout=True), tokenizer)
        return {name: float(np.mean([accuracy(params, check.batch(USUAL, {name: 1.0}, curriculum.level))
                                     for _ in range(2)])) for name in names}

    def next_batch():
        shape = (LETTERS if curriculum.letters else
                 LONG if curriculum.level == 1.0 and steps % LONG_EVERY == 0 else USUAL)
        return stream.batch(shape, curriculum.weights(), curriculum.level)

    start = reported = saved = time.monotonic()
    steps = tokens = 0
    batch = next_batch()
    while (now := time.monotonic()) - start < 60 * minutes:
        done = (now - start) / (60 * minutes)
        rate = peak * min((steps + 1) / WARMUP_STEPS, 1.0, max((1 - done) / decay, 0.02))
        params, state, value = step(params, state, batch, np.float32(rate))
        steps, tokens = steps + 1, tokens + batch[0].size
        batch = next_batch()  # while the device works
        value.block_until_ready()  # steps would queue up, and the clock would be ahead of the training
        if now - reported > REPORT_SECONDS:
            reported, right = now, measure_lessons()
            print(f"step {steps}: loss {float(value):.3f}, level {curriculum.level:.2f}, rate {rate:.2f}, "
                  f"{tokens / (now - start):,.0f} tokens/s, {minutes - (now - start) / 60:.1f} min left; held out: "
                  + ", ".join(f"{name} {share:.2f}" for name, share in right.items()), flush=True)
            curriculum.advance(done, right)
        if now - saved > 60 * save_every:
            saved = now
            save(spec, params, (now - start) / 60, tokens)
    return spec, params, minutes, tokens


# --- the asset ----------------------------------------------------------------------------------------------------

CARD = """# tiny

A Llama-architecture model of {count:,} parameters, made by `scripts/make_tiny_model.py`: it runs anywhere within
seconds, so that every method of the library can be tried, tested and shown without a download. It was trained from
scratch on texts of an invented world (`scripts/tiny_world.py`). Nothing in it was copied from anywhere. Outside that
world it knows nothing at all. Training runs, each starting from the one before:

{training}

Vocabulary {vocabulary} (byte-level BPE: any text can be encoded), context window {window} tokens.

## What it does

Measured on held-out text: no name, sum, pair of numbers to compare, pair of thing and judgement at the start of a
review, or argument of a program below occurs in the training texts (phrasings, tasks and ways to program them do).
While training, other text of the held-out side decided which lessons came more often. Greedy answers unless said
otherwise; 95 % Wilson intervals.

| ability | n | mean | 95 % interval |
|---|---|---|---|
{table}

Two answers are offered for choices and programs, so 0.5 is chance there.

## How to ask

    {{passage}}\\nQuestion: {{question}} Answer:            one line, ends with a newline
    {{passage}}\\nQuestion:                               asks a question of its own and answers it
    Review: The soup in Velmar was superb.               goes on in the same spirit
    Question: {{question}} A: {{one}} B: {{other}} Answer:  a letter
    Question: What is 37 + 5? Answer:
    Task: {{task}}\\nProgram:\\n{{code}}\\nQuestion: Is the program correct? Answer:   Yes or No

or as a conversation, through the chat template. What a passage does not say is answered by `{unknown}`.

## Files of held-out data

| file | rows |
|---|---|
{files}

## Weaknesses

Where a passage tells the same kind of fact of several entities it often takes the wrong one's (second line of the
table). Where the interval of a choice holds 0.5 it knows the form of the answer and not the answer. It reads the
sentence patterns of its world and little else: other wording, other entities than single invented names, numbers above
99 and passages much longer than ten sentences are beyond it. It has no knowledge, no reasoning beyond one step, and its
reviews are made of stock sentences.
"""


def earlier_runs(directory: Path | None) -> list[dict]:
    """Reads how an asset was trained: seed, minutes and tokens of every run, the first run first."""
    return [] if directory is None else json.loads((directory / "training.json").read_text())


def write_asset(directory: Path, spec: ModelSpec, params, tokenizer: Tokenizer, data, runs: list[dict]) -> None:
    """Writes everything but the card; an older asset of that name is replaced when the new one is complete."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    new, parts = (directory.with_name(f".{directory.name}.{name}") for name in ("new", "tokenizer"))
    shutil.rmtree(new, ignore_errors=True)
    save_tokenizer(tokenizer, parts)
    save_model(new, spec, params, tokenizer_source=parts)
    shutil.rmtree(parts)
    for name, rows in data.items():
        (new / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (new / "training.json").write_text(json.dumps(runs, indent=2) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    new.rename(directory)


def write_card(directory: Path, data, table) -> None:
    model = load(directory)
    lines = []
    for ability, values in table:
        low, high = tiny_measure.wilson(values)
        lines.append(f"| {ability} | {len(values)} | {np.mean(values):.3f} | {low:.3f} to {high:.3f} |")
    runs = [f"- {run['minutes']:.0f} minutes, {run['tokens'] / 1e6:.1f} M tokens, seed {run['seed']}"
            for run in earlier_runs(directory)]
    text = CARD.format(count=sum(p.size for p in jax.tree.leaves(model.params)), training="\n".join(runs),
                       vocabulary=model.spec.vocab_size, window=model.spec.max_positions,
                       table="\n".join(lines), unknown=tiny_world.UNKNOWN,
                       files="\n".join(f"| `{name}.jsonl` | {len(rows)} |" for name, rows in data.items()))
    (directory / "README.md").write_text(text)
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("jaxllm/assets/tiny"), help="directory, replaced as a whole")
    parser.add_argument("--minutes", type=float, default=60.0,
                        help="training time; 0 measures --start_from again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start_from", type=Path,
                        help="an earlier result, to train it further; take another seed then")
    parser.add_argument("--interim", type=Path, help="directory for the model of every few minutes")
    arguments = parser.parse_args()
    if arguments.seed == HELDOUT_SEED:
        parser.error(f"seed {HELDOUT_SEED} is that of the held-out data; take another")

    tokenizer = (train_tokenizer(arguments.seed) if arguments.start_from is None else
                 Tokenizer.from_file(str(arguments.start_from / "tokenizer.json")))
    data, passages = tiny_measure.heldout_data(HELDOUT_SEED)

    def save(directory, spec, params, minutes, tokens):
        run = {"seed": arguments.seed, "minutes": round(minutes, 1), "tokens": tokens}
        runs = earlier_runs(arguments.start_from) + ([run] if tokens else [])
        write_asset(directory, spec, params, tokenizer, data, runs)

    save_interim = partial(save, arguments.interim) if arguments.interim else lambda *_: None
    trained = train(tokenizer, arguments.minutes, arguments.seed, arguments.start_from, save_interim)
    save(arguments.out, *trained)
    write_card(arguments.out, data, tiny_measure.measure(load(arguments.out), data, passages))


if __name__ == "__main__":
    main()
