"""Real GGUF files (`make models`) against transformers' own reading of them, and the converted checkpoints."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jaxllm.assets import asset_path, fetched_path  # noqa: E402
from jaxllm.checkpoint.inspect_job import inspect  # noqa: E402
from jaxllm.config import SamplingConfig  # noqa: E402
from jaxllm.generate import Generator  # noqa: E402
from jaxllm.model import load  # noqa: E402
from jaxllm.models import compute_logits, forward  # noqa: E402
from scripts.get_models import gguf_path  # noqa: E402

PROMPTS, NEW_TOKENS = 8, 32


@pytest.fixture(scope="module", params=["smollm2", pytest.param("gemma270", marks=pytest.mark.long)])
def name(request):
    if not gguf_path(request.param).is_file() or not fetched_path(request.param).is_dir():
        pytest.skip(f"the model is not at hand; `make models MODELS={request.param}` fetches it")
    return request.param


@pytest.fixture(scope="module")
def ours(name):
    return load(gguf_path(name))


@pytest.fixture(scope="module")
def theirs(name):
    """Model and tokenizer as transformers reads them from the GGUF file."""
    source = {"pretrained_model_name_or_path": str(gguf_path(name).parent), "gguf_file": gguf_path(name).name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(**source)


@pytest.fixture(scope="module")
def prompts(name, theirs):
    """Ids of questions about short passages, with the chat template where there is one."""
    rows = [json.loads(line) for line in asset_path("tiny/documents.jsonl").read_text().splitlines()]
    texts = [f"{row['context']}\n{row['question']}" for row in rows[::len(rows) // PROMPTS][:PROMPTS]]
    tokenizer = theirs[1]
    if not tokenizer.chat_template:
        return [tokenizer(text)["input_ids"] for text in texts]
    return [tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
            for text in texts]


def test_ids_are_those_of_transformers(ours, theirs):
    texts = ["In 1984, 12345.678 people\n\n\tdidn't  like   it", " leading and trailing ", "naïve Ωμέγα 日本語 🙂",
             "for i in range(10):\n        print(i)  # done\r\n", "<b>bold</b> \u2581 e\u0301"]
    for text in texts:
        ids = theirs[1](text, add_special_tokens=False)["input_ids"]
        assert ours.tokenizer.encode(text) == ids
        assert ours.tokenizer.decode(ids) == theirs[1].decode(ids, skip_special_tokens=True)
    assert ours.tokenizer.eos_id == theirs[1].eos_token_id
    assert ours.tokenizer.adds_bos == (theirs[1]("a")["input_ids"][0] == theirs[1].bos_token_id)


def test_logits_are_those_of_transformers(ours, theirs, prompts):
    for ids in prompts[:2]:
        with torch.no_grad():
            expected = theirs[0](torch.tensor([ids])).logits[0].numpy()
        hidden = forward(ours.spec, ours.params, jnp.asarray([ids])).hidden
        logits = np.asarray(compute_logits(ours.spec, ours.params, hidden))[0]
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_greedy_tokens_are_those_of_transformers(ours, theirs, prompts):
    """Each token is transformers' most probable one after the tokens before it, so its greedy decoding makes them."""
    sampling = SamplingConfig(temperature=0, max_tokens=NEW_TOKENS)
    completions = Generator(ours, batch_size=PROMPTS).generate(prompts, sampling)
    for ids, [completion] in zip(prompts, completions, strict=True):
        made = completion.token_ids
        assert len(made) == NEW_TOKENS or made[-1] in ours.stop_ids
        with torch.no_grad():
            logits = theirs[0](torch.tensor([[*ids, *made[:-1]]])).logits[0, len(ids) - 1:]
        assert logits.argmax(-1).tolist() == made


def test_the_converted_checkpoint_is_the_same_model(name, ours, theirs, prompts):
    ids = torch.tensor([prompts[0]])
    converted = transformers.AutoModelForCausalLM.from_pretrained(fetched_path(name), dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs[0](ids).logits
        torch.testing.assert_close(converted(ids).logits, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(fetched_path(name))
    for text in ("The year 1984\n\n and  more", "don't"):
        assert tokenizer(text)["input_ids"] == theirs[1](text)["input_ids"]
    assert tokenizer.chat_template == theirs[1].chat_template
    summary = inspect(name)
    assert summary["supported"] and summary["config_passed_over"] == {}
