"""Prompts of the pioneer and the observer: templates, cuts, and special tokens."""

import dataclasses

import numpy as np
import pytest

from jaxllm.cli import main
from jaxllm.config import SamplingConfig
from jaxllm.cory import CoryConfig, QueryConfig, TeamConfig
from jaxllm.cory.prompts import check_template, encode_query, longest_prompt, observer_prompt
from jaxllm.cory.team import prompt_lengths
from jaxllm.cory.training import train
from jaxllm.errors import UserError
from jaxllm.models import Rope
from jaxllm.text.templates import fill
from tests.cory.teams import ROWS, even, make


def test_the_observer_reads_query_and_response(model):
    query = encode_query(model, QueryConfig(), {"prompt": "A {response} {query}"}, 100)
    config = CoryConfig(observer_template="{query} then {response}\n{query}")
    ids, cut = observer_prompt(model, config, query, "{query}!", 100)
    assert model.tokenizer.decode(ids) == "A {response} {query} then {query}!\nA {response} {query}"
    bare, cut_too = observer_prompt(model, CoryConfig(transfer=False), query, "anything", 100)
    np.testing.assert_array_equal(bare, query.ids)
    assert not cut and not cut_too


def test_a_response_fits_into_the_window(model):
    """Of long rope into the original one, as long as its factors differ."""
    rope = Rope(500.0, "longrope", original_positions=24, short_factors=(1.0,) * 16, long_factors=(2.0,) * 16)
    long = dataclasses.replace(model.spec, rope=rope, max_positions=96)
    config = TeamConfig(sampling=SamplingConfig(max_tokens=10))
    assert longest_prompt(config, long) == 14
    local = dataclasses.replace(rope, original_positions=20)
    assert longest_prompt(config, dataclasses.replace(long, local_rope=local)) == 10
    assert longest_prompt(config, dataclasses.replace(
        long, rope=dataclasses.replace(rope, long_factors=rope.short_factors))) == 86
    with pytest.raises(UserError, match="the model's 24 positions"):
        longest_prompt(TeamConfig(sampling=SamplingConfig(max_tokens=24)), long)


def test_special_tokens_in_a_response_are_text_in_the_observers_prompt(model):
    query = encode_query(model, QueryConfig(), {"prompt": "Review:"}, 100)
    special = model.tokenizer.special_tokens
    ids, _ = observer_prompt(model, CoryConfig(), query, "".join(special), 100)
    begin = len(query.ids) - len(model.tokenizer.encode("Review:"))
    assert special and not set(ids[begin:].tolist()) & set(special.values())


def test_a_long_response_is_cut_to_fit(model):
    query = encode_query(model, QueryConfig(), {"prompt": "Review: The soup"}, 100)
    config = CoryConfig(observer_template="{query}{response}\n{query}")
    response = " was good and the lamp was good and the bed was good" * 3
    whole, short = observer_prompt(model, config, query, response, 500)
    cut, shorter = observer_prompt(model, config, query, response, 30)
    assert len(whole) > len(cut) and len(cut) <= 30 and not short and shorter
    text = model.tokenizer.decode(cut)
    assert text.startswith("Review: The soup was good") and text.endswith("\nReview: The soup")
    with pytest.raises(UserError, match="observer's prompt"):
        observer_prompt(model, config, query, response, 5)


@pytest.mark.parametrize("times", [1, 2])
def test_a_prompt_has_space_for_every_place_of_the_response(model, times):
    template = "{query}" + "{response}\n" * times + "{query}"
    config = TeamConfig(agents=2, sampling=SamplingConfig(max_tokens=40), cory=CoryConfig(observer_template=template))
    longest = max(prompt_lengths(config, model, ROWS)[1])
    response = model.tokenizer.decode(model.tokenizer.encode(" was good and the lamp" * 20)[:40])
    for query in (encode_query(model, config.query, row, 100) for row in ROWS):
        assert not observer_prompt(model, config.cory, query, response, longest)[1]


def test_a_prompt_has_space_for_a_query_that_is_cut_within_a_character(model):
    """Of its bytes U+FFFD is made, which takes more tokens."""
    config = TeamConfig(agents=2, query=QueryConfig(tokens=[2, 5]), cory=CoryConfig(observer_template="{query}"))
    rows = [{"prompt": "\n the \N{CJK UNIFIED IDEOGRAPH-6F22} soup"}]
    longest = max(prompt_lengths(config, model, rows)[1])
    cuts = [QueryConfig(tokens=[count, count]) for count in range(2, 6)]
    queries = [encode_query(model, cut, rows[0], 100) for cut in cuts]
    assert any(query.text.endswith("\N{REPLACEMENT CHARACTER}") for query in queries)
    for query in queries:
        observer_prompt(model, config.cory, query, "", longest)


def test_messages_keep_their_earlier_turns(model):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    query = encode_query(model, QueryConfig(), {"messages": turns}, 100)
    ids, _ = observer_prompt(model, CoryConfig(observer_template="{query} / {response}"), query, "Hi", 100)
    expected = model.tokenizer.chat_prompt([turns[0], {"role": "user", "content": "Hello / Hi"}])
    np.testing.assert_array_equal(ids, expected)


def test_a_query_that_is_cut_is_encoded_once(model, monkeypatch):
    """It may be the start of a long text, and every iteration encodes a batch of these."""
    encoded, encode = [], type(model.tokenizer).encode
    monkeypatch.setattr(type(model.tokenizer), "encode", lambda own, text, *rest, **more: (
        encoded.append(text), encode(own, text, *rest, **more))[1])
    query = encode_query(model, QueryConfig(tokens=[2, 5]), {"text": "Review: The soup in Velmar was superb"}, 100)
    assert len(encoded) == 1 and len(query.ids) == len(model.prefix) + 5


def test_queries_are_cut_to_a_drawn_number_of_tokens(model):
    config, row = QueryConfig(tokens=[2, 5]), {"text": "Review: The soup in Velmar was superb and more"}
    whole = model.prompt_ids(row["text"])
    draws = np.random.default_rng(0)
    lengths = set()
    for _ in range(40):
        query = encode_query(model, config, row, 100, draws)
        np.testing.assert_array_equal(query.ids, whole[:len(query.ids)])
        assert query.text == model.tokenizer.decode(query.ids)
        lengths.add(len(query.ids) - (len(whole) - len(model.tokenizer.encode(row["text"]))))
    assert lengths == {2, 3, 4, 5}
    assert len(encode_query(model, config, {"text": "Re"}, 100).ids) < 4
    filled = encode_query(model, QueryConfig(template="Q: {question} A:"), {"question": "2 {x}?"}, 100)
    assert filled.text == "Q: 2 {x}? A:"


def test_templates():
    assert fill("{a} {b} {a}", {"a": "{b}", "b": 1}) == "{b} 1 {b}"
    with pytest.raises(UserError, match="'c'"):
        fill("{c}", {"a": 1})


def test_a_prompt_longer_than_the_window_names_its_row(model):
    long = {"prompt": "soup " * 600, "id": "x9"}
    with pytest.raises(UserError, match="row 9"):
        train(model, [*ROWS, long], even, config=TeamConfig(sampling=SamplingConfig(max_tokens=6)), progress=False)
    both = TeamConfig(agents=2, sampling=SamplingConfig(max_tokens=6))
    with pytest.raises(UserError, match="row 9: the observer's prompt has"):
        train(model, [*ROWS, {"prompt": "soup " * 300}], even, config=both, progress=False)
    with pytest.raises(UserError, match="604 tokens, and with a response 506 fit"):
        make(model, rows=[*ROWS, long])
    with pytest.raises(UserError, match="no prompt"):
        make(model, rows=[])


@pytest.mark.parametrize(("prompt", "message"), [(5, "got int"), (True, "got bool"), ("a\ud83d", "lone surrogate")])
def test_a_prompt_that_is_no_text_names_its_row(model, prompt, message):
    with pytest.raises(UserError, match=f"row 9: .*{message}"):
        train(model, [*ROWS, {"prompt": prompt}], even, config=TeamConfig(), progress=False)


def test_a_template_longer_than_the_window_is_no_fault_of_the_rows(model, tmp_path, capsys):
    out, template = tmp_path / "run", "{query}" + " soup" * 600
    config = TeamConfig(agents=2, sampling=SamplingConfig(max_tokens=6), cory=CoryConfig(observer_template=template))
    with pytest.raises(UserError, match="cory.observer_template: the template has .* tokens .* and 506 fit"):
        train(model, ROWS, even, config=config, progress=False)
    check_template(model, dataclasses.replace(config, cory=dataclasses.replace(config.cory, transfer=False)))
    assert main(["rl", "--data.path=asset:tiny/reviews.jsonl", f"--out={out}", "--reward=words",
                 "--rewards.words={a: 1}", "--agents=2", f"--cory.observer_template={template}"]) == 2
    error = capsys.readouterr().err
    assert "cory.observer_template: the template has" in error and "rows" not in error and not out.exists()
