"""Token ids of pairs, completions and whole texts: one prompt, one end token, each text cut on its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.errors import UserError
from jaxllm.text import load_tokenizer
from jaxllm.text.encoding import (
    TooLong,
    encode_all,
    encode_completion,
    encode_pair,
    encode_reward_pair,
    encode_text,
)
from jaxllm.text.examples import encode_example
from jaxllm.text.forms import PairRow, SftRow, UnpairedRow
from tests.text.chat_tokenizers import BACKENDS, CHATML, GEMMA, PLAIN, THINKS, byte_level

Q = [{"role": "user", "content": "Once upon a time?"}]


def assistant(text):
    return {"role": "assistant", "content": text}


def learned(tokenizer, text):
    """Text of the tokens that carry loss."""
    return tokenizer.decode(text.ids[text.loss_mask], special=True)


def prompt(tokenizer, encoded):
    return tokenizer.decode(encoded.texts[0].ids[:encoded.prompt_length], special=True)


# The end token.


@pytest.mark.parametrize("template, ends", [("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>"), (GEMMA, "<|eot_id|>"),
                                            ("llama2", "</s>"), ("generation", "<|end|>")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_answer_ends_with_the_token_that_ends_a_turn_once(saved, backend, template, ends):
    tokenizer, fast = saved(backend, template)
    pair = encode_pair(tokenizer, PairRow(Q, "yo", "1 + 1 = 2"))
    end, begin = fast.convert_tokens_to_ids(ends), fast.convert_tokens_to_ids("<s>")
    for text, answer in zip(pair.texts, ("yo", "1 + 1 = 2"), strict=True):
        spoken = text.ids[pair.prompt_length:].tolist()
        assert text.loss_mask.tolist() == [False] * pair.prompt_length + [True] * len(spoken)
        assert spoken[-1] == end and spoken.count(end) == 1
        assert tokenizer.eos_id == end or tokenizer.eos_id not in spoken
        assert text.ids.tolist().count(begin) == (template in ("llama3", "llama2", GEMMA))
        whole = tokenizer.chat([*Q, assistant(answer)], add_generation_prompt=False)
        assert text.ids.tolist() == whole[:len(text.ids)]  # after it the template may write a newline
    single = encode_completion(tokenizer, UnpairedRow(Q, "yo", True))
    assert single.texts[0].ids.tolist() == pair.texts[0].ids.tolist() and single.prompt_length == pair.prompt_length


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_text_ends_with_one_end_token(saved, backend):
    tokenizer, _ = saved(backend, None)
    for prompt_text in ("1 + 1", None):
        rows = [SftRow(prompt_text, text) for text in ("= 2", "= 2</s>")]
        first, second = (encode_completion(tokenizer, row, start=[0]).texts[0] for row in rows)
        assert first.ids.tolist() == second.ids.tolist() and first.loss_mask.tolist() == second.loss_mask.tolist()
        assert first.ids.tolist().count(tokenizer.eos_id) == 1 and first.ids[-1] == tokenizer.eos_id
        assert first.loss_mask[-1] and not first.loss_mask[0]  # the end is learned, though padding has its id
    pair = encode_pair(tokenizer, PairRow("1 + 1", " = 2", " = 3</s>"))
    assert [text.ids[-1] for text in pair.texts] == [tokenizer.eos_id] * 2


def test_the_begin_token_is_there_once():
    tokenizer = load_tokenizer("tiny")
    assert tokenizer.adds_bos
    for encoded in (encode_pair(tokenizer, PairRow("The ship", " sails", " sinks")),
                    encode_completion(tokenizer, SftRow(None, "The ship sails")),
                    encode_completion(tokenizer, SftRow("The ship", " sails"))):
        assert all(text.ids.tolist().count(tokenizer.bos_id) == 1 and text.ids[0] == tokenizer.bos_id
                   for text in encoded.texts)
    assert encode_text(tokenizer, "The ship")[0].tolist().count(tokenizer.bos_id) <= 1


def test_a_template_without_an_end_token_is_noticed(saved, capsys):
    pair = encode_pair(saved("byte_level", PLAIN)[0], PairRow(Q, "a", "b"))
    assert len(pair.texts[0].ids) == pair.prompt_length + 1
    assert "does not learn to stop" in capsys.readouterr().err


# One prompt.


@pytest.fixture(scope="module")
def thinking(tmp_path_factory):
    """(generation prompt, text in front of an answer without thoughts) -> tokenizer with such a template."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    def make(supplied, inserted=""):
        backend = byte_level()
        backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in ("<think>", "</think>")])
        fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
        fast.chat_template = (
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
            f"{{% if m['role'] == 'assistant' and not '</think>' in m['content'] %}}{inserted}{{% endif %}}"
            "{{ m['content'] }}<|im_end|>\n{% endfor %}"
            f"{{% if add_generation_prompt %}}<|im_start|>assistant\n{supplied}{{% endif %}}")
        folder = tmp_path_factory.mktemp("tokenizer")
        fast.save_pretrained(folder)
        return load_tokenizer(folder)

    return make


HEAD = "<|im_start|>user\nOnce upon a time?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("supplied, inserted, chosen, rejected, expected", [
    # The generation prompt has a token that one answer lacks: it belongs to the completion of the other.
    ("<think>", "", "<think>r</think>C", "R", ("", "<think>r</think>C", "R")),
    ("<think>", "", "<think>r</think>C", "<think>s</think>R", ("<think>", "r</think>C", "s</think>R")),
    ("", "", "<think>r</think>C", "<think>s</think>R", ("", "<think>r</think>C", "<think>s</think>R")),
    # Text of the template in front of answers without thoughts is learned unless the generation prompt has it.
    ("", "<think></think>", "C", "R", ("", "<think></think>C", "<think></think>R")),
    ("<think></think>", "<think></think>", "C", "R", ("<think></think>", "C", "R")),
    ("", "<think></think>", "<think>r</think>C", "R", ("", "<think>r</think>C", "<think></think>R")),
    ("", "", "The sky", "The sea", ("", "The sky", "The sea")),
])
def test_both_answers_have_one_prompt(thinking, supplied, inserted, chosen, rejected, expected):
    tokenizer = thinking(supplied, inserted)
    for sides in ((0, 1), (1, 0)):
        answers = [(chosen, rejected)[side] for side in sides]
        pair = encode_pair(tokenizer, PairRow(Q, *answers))
        assert prompt(tokenizer, pair) == HEAD + expected[0]
        assert pair.prompt_is_prefix == (supplied == expected[0])
        for text, side in zip(pair.texts, sides, strict=True):
            assert text.ids[:pair.prompt_length].tolist() == pair.texts[0].ids[:pair.prompt_length].tolist()
            assert learned(tokenizer, text) == expected[1 + side] + "<|im_end|>"
            assert text.loss_mask[pair.prompt_length:].all()


@pytest.mark.parametrize("supplied, inserted, answer, expected", [
    ("", "", "yo", "yo"), ("", " ", "yo", " yo"), ("", "<think></think>", "yo", "<think></think>yo"),
    ("<think></think>", "<think></think>", "yo", "yo"), ("<think>", "", "<think>r</think>yo", "r</think>yo"),
    ("<think>", "", "yo", "yo")])
def test_a_turn_is_learned_from_its_generation_prompt_on(thinking, supplied, inserted, answer, expected):
    """In a whole conversation as after a prompt: the tokens that the model has to write itself, and no others."""
    tokenizer = thinking(supplied, inserted)
    conversation = encode_completion(tokenizer, SftRow(None, [*Q, assistant(answer), *Q, assistant(answer)])).texts[0]
    assert learned(tokenizer, conversation) == 2 * f"{expected}<|im_end|>"
    single = encode_completion(tokenizer, SftRow(None, [*Q, assistant(answer)]))
    after_prompt = encode_completion(tokenizer, SftRow(Q, answer))
    assert single.texts[0].loss_mask.tolist() == after_prompt.texts[0].loss_mask.tolist()
    scored = encode_example(tokenizer, messages=Q, completion=answer)
    assert scored.prompt_length == after_prompt.prompt_length == single.prompt_length


def test_a_generation_prompt_that_no_rendering_has_is_left_out(saved):
    tokenizer, _ = saved("byte_level", THINKS)
    pair = encode_pair(tokenizer, PairRow(Q, "a", "b"))
    assert prompt(tokenizer, pair) == HEAD


def test_a_token_that_spans_the_border_belongs_to_the_completions(saved):
    tokenizer, _ = saved("byte_level", None)
    pair = encode_pair(tokenizer, PairRow("a t", "ime", "x"))
    assert prompt(tokenizer, pair) == "a"
    assert [learned(tokenizer, text) for text in pair.texts] == [" time</s>", " tx</s>"]


@pytest.mark.parametrize(("prompt", "answers", "prompt_is_prefix"), [
    ("a t", ("ime", "x"), False), ("a t", ("\n", "\n\n"), True), ("", ("a", "b"), True)])
def test_tokens_that_span_the_border_are_noted(saved, prompt, answers, prompt_is_prefix):
    tokenizer, _ = saved("byte_level", None)
    for encoded in (encode_pair(tokenizer, PairRow(prompt, *answers), start=[1]),
                    encode_completion(tokenizer, UnpairedRow(prompt, answers[0], True), start=[1])):
        assert encoded.prompt_is_prefix == prompt_is_prefix


WORDS = st.lists(st.sampled_from(["a", "ime", " t", "\n", "1 + 1", "é", "<think>", "user", "</s>"]), min_size=1,
                 max_size=6).map("".join)


@pytest.mark.parametrize("template", [None, CHATML])
def test_prompt_and_completions_are_the_whole_texts(saved, template):
    tokenizer, _ = saved("byte_level", template)

    @given(WORDS, WORDS, WORDS)
    @settings(max_examples=60, deadline=None)
    def check(start, a, b):
        rows = PairRow(start if template is None else [{"role": "user", "content": start}], a, b)
        try:
            pair = encode_pair(tokenizer, rows, start=[1])
        except UserError:
            return
        for text, answer in zip(pair.texts, (a, b), strict=True):
            assert text.ids[:pair.prompt_length].tolist() == pair.texts[0].ids[:pair.prompt_length].tolist()
            assert text.loss_mask[pair.prompt_length:].all() and not text.loss_mask[:pair.prompt_length].any()
            spelled = tokenizer.decode(text.ids)
            assert spelled.endswith(answer.removesuffix("</s>") if template is None else answer) and start in spelled

    check()


def test_several_turns_after_the_prompt(saved):
    tokenizer, _ = saved("byte_level", "chatml")
    tool = {"role": "tool", "content": "3"}
    pair = encode_pair(tokenizer, PairRow([*Q, assistant("A"), *Q], [assistant("look"), tool, assistant("3")], "4"))
    assert [learned(tokenizer, text) for text in pair.texts] == ["look<|im_end|>3<|im_end|>", "4<|im_end|>"]
    conversation = encode_completion(tokenizer, SftRow(None, [*Q, assistant("A"), *Q, assistant("B")]))
    assert learned(tokenizer, conversation.texts[0]) == "A<|im_end|>B<|im_end|>"
    empty = UnpairedRow([*Q, assistant("A"), *Q], " ", True)
    with pytest.raises(UserError, match="no assistant turn with text"):  # no earlier turn in its place
        encode_completion(tokenizer, empty)


# Lengths.


@pytest.fixture(scope="module")
def letters(saved):
    """A tokenizer for which every digit of a plain text is a token."""
    tokenizer, _ = saved("byte_level", None)
    assert len(tokenizer.encode("1357")) == 4
    return tokenizer


def test_each_completion_is_cut_to_its_own_length_and_keeps_its_start(letters):
    row = PairRow("1111", "3579" * 3 + "3", "57")  # 4 tokens, 13 and the end, 2 and the end
    pair = encode_pair(letters, row, max_length=10)
    assert [len(text.ids) for text in pair.texts] == [10, 7] and pair.prompt_length == 4 and pair.cut == 8
    assert learned(letters, pair.texts[0]) == "357935"
    assert learned(letters, pair.texts[1]) == "57</s>"
    for answer, text in zip((row.chosen, row.rejected), pair.texts, strict=True):  # the partner does not matter
        alone = encode_completion(letters, UnpairedRow(row.prompt, answer, True), max_length=10)
        assert alone.texts[0].ids.tolist() == text.ids.tolist()
    assert encode_pair(letters, row, max_length=18).cut == 0


def test_rows_without_a_loss_after_they_are_cut_are_dropped(letters, saved):
    row = UnpairedRow("1111", "3", True)
    assert encode_completion(letters, row, max_length=5).texts[0].loss_mask.sum() == 1
    for length in (4, 3):
        with pytest.raises(TooLong, match="the prompt has 4 tokens"):
            encode_completion(letters, row, max_length=length)
    with pytest.raises(TooLong, match="after both are cut"):
        encode_pair(letters, PairRow("1", "3335", "3337"), max_length=4)
    tokenizer, _ = saved("byte_level", "chatml")
    with pytest.raises(TooLong):
        encode_completion(tokenizer, SftRow(None, [*Q, assistant("A")]), max_length=8)
    texts = encode_completion(letters, SftRow(None, "13579"), max_length=3)  # no second row of the rest
    assert texts.texts[0].ids.tolist() == letters.encode("135") and texts.cut == 3
    assert texts.texts[0].loss_mask.tolist() == [False, True, True]


def test_a_cap_of_the_prompt_keeps_its_end_and_the_begin_token(letters):
    row = PairRow("13579", "3", "5")
    pair = encode_pair(letters, row, max_prompt_length=2, max_length=3)
    assert prompt(letters, pair) == "79" and [learned(letters, text) for text in pair.texts] == ["3", "5"]
    assert pair.lengths == (7, 7) and pair.cut == 2 * (3 + 1)
    tokenizer = load_tokenizer("tiny")
    whole = encode_pair(tokenizer, PairRow("The ship Rinla sails from Torla", " a", " b"))
    capped = encode_pair(tokenizer, PairRow("The ship Rinla sails from Torla", " a", " b"), max_prompt_length=3)
    kept = [tokenizer.bos_id, *whole.texts[0].ids[whole.prompt_length - 2:whole.prompt_length]]
    assert capped.texts[0].ids[:3].tolist() == kept and capped.prompt_length == 3
    talk = [{"role": "user", "content": "The ship Rinla sails from Torla"}]
    whole, split = (encode_completion(tokenizer, row, max_prompt_length=6, max_length=12)
                    for row in (SftRow(None, [*talk, assistant("a")]), SftRow(talk, "a")))
    assert whole.texts[0].ids.tolist() == split.texts[0].ids.tolist() and whole.prompt_length == 6


def test_all_rows_are_counted(letters):
    rows = [UnpairedRow("11", "3", True), UnpairedRow("1111", "3", True), UnpairedRow(Q, "3", True),
            UnpairedRow("13", "5", True)]
    done = encode_all(rows, lambda row: encode_completion(letters, row, max_length=4))
    assert done.indices == [0, 3] and list(done.refused) == [2] and len(done.encoded) == 2
    assert {i: error.tokens for i, error in done.too_long.items()} == {1: 6}
    assert done.refused[2] == "this tokenizer has no chat template"


# Whole texts, for a head.


def test_whole_texts_of_a_head(saved):
    tokenizer, _ = saved("byte_level", "chatml")
    chosen, rejected = encode_reward_pair(tokenizer, PairRow(Q, "yo", "no"))
    assert chosen.tolist() == tokenizer.chat([*Q, assistant("yo")], add_generation_prompt=False)
    assert chosen.dtype == rejected.dtype == np.int32
    several, _ = encode_reward_pair(tokenizer, PairRow(Q, [assistant("a"), *Q, assistant("b")], "no"))
    assert several.tolist() == tokenizer.chat([*Q, assistant("a"), *Q, assistant("b")], add_generation_prompt=False)
    chosen, _ = encode_reward_pair(tokenizer, PairRow("1 + 1", " = 2", " = 3"))
    assert chosen.tolist() == [*tokenizer.encode("1 + 1 = 2"), tokenizer.eos_id]
    ids, types = encode_text(tokenizer, Q)
    assert ids.tolist() == tokenizer.chat(Q, add_generation_prompt=False) and types.tolist() == [0] * len(ids)
    assert encode_text(tokenizer, "135")[0].tolist() == tokenizer.whole("135")[0]
    for too_long in (lambda: encode_reward_pair(tokenizer, PairRow("1", "357", "3"), max_length=4),
                     lambda: encode_text(tokenizer, "13579", max_length=4)):
        with pytest.raises(TooLong, match="the text has 5 tokens, more than 4") as error:  # dropped, never cut
            too_long()
        assert error.value.tokens == 5
    with pytest.raises(UserError, match="the same tokens"):
        encode_reward_pair(tokenizer, PairRow("1", "3", "3</s>"))
    with pytest.raises(UserError, match="the text is empty"):
        encode_text(tokenizer, "")
