"""Evaluation of the model `tiny`: rows from the held-out side of the world, and their scores."""

from __future__ import annotations

import collections

import numpy as np
import tiny_tables
import tiny_world

from jaxllm.config import SamplingConfig
from jaxllm.generate import generate
from jaxllm.model import Model


def heldout_data(seed: int, documents: int = 150, mixed: int = 60, rows: int = 200):
    """Returns (file name -> rows, passages with their facts), all from the held-out side of the world.

    `documents` are about one entity each; in `documents_mixed` other entities of its type have facts with the same
    relations, so that only the name distinguishes them.
    """
    world = tiny_world.World(seed, heldout=True)
    rng, entities = world.rng, set()

    def passages(count, others):
        made = []
        while len(made) < count:
            text, facts, _ = world.document(rng.randint(5, 8), rng.choice(others))
            names = {fact.entity for fact in facts}
            # Passages are later injected into one set of weights: an entity must be in one passage only.
            if 5 <= len(facts) <= 8 and not names & entities:
                entities.update(names)
                made.append((text, facts))
        return made

    single, several = passages(documents, (0,)), passages(mixed, (1, 2))
    questions = lambda described: [{"context": text, "question": rng.choice(fact.questions), "answers": [fact.value]}
                                   for text, facts in described for fact in facts]
    data = {"documents": questions(single), "documents_mixed": questions(several)}

    def row(kind, spans):
        return {"kind": kind, "prompt": "".join(text for text, _ in spans[:-1]), "answers": [spans[-1][0].strip()]}

    def review(kind):
        text, level = world.review(sentences=1 if kind == "continue" else None)
        spans = [("Review:", "question"), (" " + text, "text")]
        end = [(("positive" if level > 0 else "negative"), "answer")]
        return row(kind, spans + (end if kind == "continue" else [("\n", "text"), *world.sentiment_question(level)]))

    choices = {"option": world.option, "number": world.number_choice, "review": world.review_choice,
               "passage": lambda: world.reading_choice(5, 1, questions=1)}
    programs = {"judge": world.program_judge, "choose": world.program_choice}
    unrelated = [lambda: f"Review: {world.review()[0]}\n", lambda: world.story() + "\n", world.sum, world.number_choice,
                 world.review_choice, world.program_judge]
    text_of = lambda made: made if isinstance(made, str) else "".join(text for text, _ in made)
    data |= {
        "reviews": [review(("continue", "label")[i % 2]) for i in range(rows)],
        "choices": [row(kind, choices[kind]()) for i in range(2 * rows) for kind in [list(choices)[i % 4]]],
        "arithmetic": [row("sentence" if "crates" in spans[0][0] else "bare", spans)
                       for spans in (world.sum() for _ in range(rows))],
        "programs": [row(kind, programs[kind]()) for i in range(2 * rows) for kind in [list(programs)[i % 2]]],
        "unrelated": [{"text": text_of(unrelated[i % len(unrelated)]())} for i in range(rows)],
    }
    return data, single


def token_f1(answer: str, truth: str) -> float:
    """Computes the harmonic mean of precision and recall over words, as SQuAD scores answers (1606.05250)."""
    got, wanted = answer.lower().split(), truth.lower().split()
    same = sum((collections.Counter(got) & collections.Counter(wanted)).values())
    return 2 * same / (len(got) + len(wanted)) if same else 0.0


def wilson(values) -> tuple[float, float]:
    """Computes Wilson's 95 % interval of the mean of values in [0, 1]."""
    n, p, z = len(values), float(np.mean(values)), 1.96
    centre, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def answers(model: Model, prompts, max_tokens: int = 12) -> list[str]:
    """Generates greedy completions up to the end of the line."""
    sampling = SamplingConfig(temperature=0.0, max_tokens=max_tokens, stop=["\n"])
    return [c[0].text.strip() for c in generate(model, [model.prompt_ids(p) for p in prompts], sampling, batch_size=64)]


def sentiment(text: str) -> str:
    """Classifies a review by its adjectives and remarks: positive, negative, or empty if they balance."""
    score = sum(np.sign(level) * text.count(phrase) for table in (tiny_tables.ADJECTIVES, tiny_tables.REMARKS)
                for level, phrases in table.items() for phrase in phrases)
    return "positive" if score > 0 else "negative" if score < 0 else ""


def self_generated_pairs(model: Model, passages, samples: int, temperature: float, seed: int = 0):
    """Scores QA pairs that the model generates: (correct or not per pair, share of facts covered per passage).

    A pair is correct if the world has its question for a fact of the passage, and that fact's value as the answer."""
    sampling = SamplingConfig(temperature=temperature, max_tokens=40, stop=["\n"], n=samples)
    prompts = [model.prompt_ids(f"{text}\nQuestion:") for text, _ in passages]
    right, covered = [], []
    results = generate(model, prompts, sampling, seed=seed, batch_size=64)
    for (_, facts), completions in zip(passages, results, strict=True):
        truth = {(question, fact.value): fact for fact in facts for question in fact.questions}
        facts_of_pairs = [truth.get(tuple(c.text.strip().split(" Answer: "))) for c in completions]
        right += [fact is not None for fact in facts_of_pairs]
        covered.append(len(set(facts_of_pairs) - {None}) / len(facts))
    return right, covered


def measure(model: Model, data, passages) -> list[tuple[str, list[float]]]:
    """Returns (ability, score of each row) for every line of the card."""
    documents, table = data["documents"], []
    with_passage = [f"{r['context']}\nQuestion: {r['question']} Answer:" for r in documents]
    without = [f"Question: {r['question']} Answer:" for r in documents[::3]]
    f1 = lambda texts, rows: [token_f1(t, r["answers"][0]) for t, r in zip(texts, rows, strict=True)]
    table.append(("questions with the passage, token F1", f1(answers(model, with_passage), documents)))
    mixed = data["documents_mixed"]
    prompts = [f"{r['context']}\nQuestion: {r['question']} Answer:" for r in mixed]
    table.append(("the same, several entities in the passage", f1(answers(model, prompts), mixed)))
    table.append(("the same without the passage, token F1", f1(answers(model, without), documents[::3])))
    chats = [model.tokenizer.chat([{"role": "user", "content": f"{r['context']}\nQuestion: {r['question']}"}])
             for r in documents[1::3]]
    replies = generate(model, chats, SamplingConfig(temperature=0.0, max_tokens=12), batch_size=64)
    table.append(("the same as a chat, token F1", f1([c[0].text.strip() for c in replies], documents[1::3])))
    right, covered = self_generated_pairs(model, passages[:60], samples=20, temperature=1.0)
    table.append(("own question and answer (temperature 1), right", right))
    table.append(("facts of a passage asked about in 20 samples", covered))
    for name in ("reviews", "choices", "arithmetic", "programs"):
        for kind in dict.fromkeys(r["kind"] for r in data[name]):
            rows = [r for r in data[name] if r["kind"] == kind]
            texts = answers(model, [r["prompt"] for r in rows], 60 if kind == "continue" else 12)
            if kind == "continue":
                texts = [sentiment(text) for text in texts]
            table.append((f"{name}: {kind}, right", [t == r["answers"][0] for t, r in zip(texts, rows, strict=True)]))
    return table
