"""Training runs against TRL's trainers: the loss and the other numbers of each of 20 steps, from the same rows.

Both sides read the same texts and checkpoint, and train all weights (once an adapter, against PEFT) by AdamW with decay
and clipping at a constant rate. Where TRL has no such loss, a plain loop in torch takes its place.

The losses that TRL 1.16 has in another form:

    sigmoid   TRL ignores label smoothing; `cdpo` has it, and is compared with its formula
    hinge     is RSO's loss on log-ratios; that of SLiC-HF, `slic_hf`, has no reference model
    kto       TRL pairs a prompt with the completion of the row before it, also with the same prompt, in batches of
              the file; here it is the next row of the drawn batch with another prompt. Prompts differ within a batch
              below, and TRL gets its rows reversed, so that the pairs are the same.
"""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch")
pytest.importorskip("trl", "1.16")
peft = pytest.importorskip("peft")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import datasets  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from torch.nn.functional import cross_entropy, logsigmoid  # noqa: E402
from trl.experimental.cpo import CPOConfig, CPOTrainer  # noqa: E402
from trl.experimental.orpo import ORPOConfig, ORPOTrainer  # noqa: E402

from jaxllm.devices import open_mesh  # noqa: E402
from jaxllm.finetune.trainable import init_trained  # noqa: E402
from jaxllm.finetune.tune.config import Config  # noqa: E402
from jaxllm.finetune.tune.data import read  # noqa: E402
from jaxllm.finetune.tune.tuning import prepare, scoring_model  # noqa: E402
from jaxllm.model import load  # noqa: E402
from jaxllm.models import Adapter, load_spec  # noqa: E402
from jaxllm.models.peft import save_adapter  # noqa: E402
from jaxllm.parsing import parse  # noqa: E402
from jaxllm.train import row_indices  # noqa: E402
from scripts.parity_networks import GROUPED, Network, torch_model  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS, BATCH, ROWS, LR, DECAY, SEED = 20, 4, 24, 5e-4, 0.01, 3
LIMIT = 1e-4
SETTINGS = [f"--train.steps={STEPS}", "--train.epochs=null", f"--train.batch_size={BATCH}", "--train.log_every=1",
            f"--train.lr={LR}", "--train.schedule=constant", f"--train.weight_decay={DECAY}", "--train.remat=none",
            f"--seed={SEED}"]
PADDED = "--train.packing=false"
WORDS = ["<pad>", "<unk>", "</s>", *(f"w{i}" for i in range(3, GROUPED["vocab_size"]))]
NETWORKS = {"lm": Network(transformers.LlamaConfig(**GROUPED)),
            "reward": Network(transformers.LlamaConfig(**GROUPED, num_labels=1), scores=True),
            "classifier": Network(transformers.LlamaConfig(**GROUPED, num_labels=3), scores=True)}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Torch on one thread, which such small matrices need no more than, and no messages."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models_in(tmp_path_factory):
    """Directory with a checkpoint of every network, and a tokenizer of words."""
    folder = tmp_path_factory.mktemp("models")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    for name, network in NETWORKS.items():
        torch_model(network).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def make_rows(kind):
    """Draws rows of texts of at most 16 tokens, so that batches have few shapes to compile."""
    random, least = np.random.default_rng(0), 1 if kind == "sft" else 4
    words = lambda most=7: " ".join(f"w{i}" for i in random.integers(3, len(WORDS), random.integers(least, most + 1)))
    answer = lambda: f" {words(8)}"
    return [{"sft": lambda: dict(prompt=words(), completion=answer()),
             "pairs": lambda: dict(prompt=words(), chosen=answer(), rejected=answer()),
             "unpaired": lambda i=i: dict(prompt=words(), completion=answer(), label=bool(i % 3)),
             "reward": lambda i=i: dict(prompt=words(), chosen=answer(), rejected=answer(), margin=0.1 * (i % 4)),
             "classify": lambda i=i: dict(text=words(), label=i % 3)}[kind]() for i in range(ROWS)]


def in_order(rows, reverse=False):
    """Returns the rows of all batches one after the other; reversed within each with `reverse`."""
    batches = [row_indices(SEED, step, BATCH, ROWS) for step in range(STEPS)]
    return [rows[i] for batch in batches for i in (batch[::-1] if reverse else batch)]


def ours(folder, kind, *arguments):
    """Trains as `jaxllm tune` does; returns the numbers of every step."""
    data_file = folder.parent / f"{kind}.jsonl"
    data_file.write_text("".join(json.dumps(row) + "\n" for row in make_rows(kind)))
    config = parse(Config, [f"--data.path={data_file}", "--out=unused", f"--model={folder}", "--save=nothing",
                            "--held_back.share=0", *SETTINGS, *arguments])
    (rows, _), lines = read(config, None), []
    model = scoring_model(config, load(folder), rows.labels)
    prepare(config, model, rows, None, limit_bad=0.0, progress=False).fit(
        metrics=SimpleNamespace(write=lambda step, values: lines.append(dict(values))), progress=False)
    return lines


def theirs(trainer, config, model, folder, rows, **settings):
    """Trains with a trainer of TRL; returns the numbers of every step."""
    arguments = config(**dict(
        output_dir=str(folder.parent / "trl"), max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=LR,
        lr_scheduler_type="constant", weight_decay=DECAY, max_grad_norm=1.0, train_sampling_strategy="sequential",
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
        disable_tqdm=True, logging_steps=1) | settings)
    made = trainer(model, args=arguments, train_dataset=datasets.Dataset.from_list(rows),
                   processing_class=transformers.AutoTokenizer.from_pretrained(folder))
    made.pop_callback(transformers.PrinterCallback)
    made.train()
    return [line for line in made.state.log_history if "loss" in line]


def torch_loop(model, batches, loss):
    """Trains with `loss(model, rows of a batch)`; returns the numbers of every step."""
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": DECAY},
              {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    optimizer, lines = torch.optim.AdamW(groups, LR), []
    for rows in batches:
        optimizer.zero_grad()
        value = loss(model, rows)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lines.append({"loss": value.item(), "grad_norm": norm.item()})
    return lines


def assert_same(mine, other, *, metrics=()):
    """Compares the losses of all steps, the norms of the gradients, and `metrics`."""
    assert len(mine) == len(other) == STEPS
    column = lambda lines, name: np.array([line[name] for line in lines])
    for name, limit in (("loss", LIMIT), ("grad_norm", 10 * LIMIT), *((name, 10 * LIMIT) for name in metrics)):
        expected = column(other, name)
        assert_allclose(column(mine, name), expected, rtol=limit, atol=0 if name == "loss" else LIMIT, err_msg=name)
    assert np.ptp(column(other, "loss")) > 0.01  # something was learned


def language_model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")


def test_sft(models_in):
    """Packed, against two microbatches of padded rows: means over the tokens of the whole batch."""
    folder = models_in / "lm"
    assert_same(ours(folder, "sft", "--method=sft", "--lora=null"),
                theirs(trl.SFTTrainer, trl.SFTConfig, language_model(folder), folder, in_order(make_rows("sft")),
                       per_device_train_batch_size=BATCH // 2, gradient_accumulation_steps=2))


ALL = ["sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
       "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"]


@pytest.mark.parametrize(("arguments", "settings"), [
    pytest.param(["--method=dpo", "--preference.beta=0.3"], {"beta": 0.3}, id="packed"),
    pytest.param(["--method=dpo", "--preference.label_smoothing=0.1", "--preference.beta=0.1", PADDED,
                  f"--loss={ALL}", f"--loss_weights={[0.1 + 0.02 * i for i in range(15)]}"],
                 {"loss_type": ALL, "loss_weights": [0.1 + 0.02 * i for i in range(15)], "label_smoothing": 0.1,
                  "discopop_tau": 0.05}, id="all losses"),
    pytest.param(["--method=dpo", "--loss=[sigmoid, ipo]", "--preference.ld_alpha=0", "--preference.wpo=true",
                  "--preference.divergence=js_divergence", "--preference.beta=0.5", PADDED],
                 {"loss_type": ["sigmoid", "ipo"], "ld_alpha": 0.0, "use_weighting": True,
                  "f_divergence_type": "js_divergence", "beta": 0.5}, id="weighted tokens and pairs"),
    pytest.param(["--method=robust", "--reference.sync_every=4", "--reference.sync_mix=0.6", PADDED],
                 {"loss_type": ["robust"], "label_smoothing": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 4,
                  "ref_model_mixup_alpha": 0.6}, id="reference model that follows"),
])
def test_dpo(models_in, arguments, settings):
    folder = models_in / "lm"
    model = language_model(folder)
    assert_same(ours(folder, "pairs", "--lora=null", *arguments),
                theirs(trl.DPOTrainer, trl.DPOConfig, model, folder, in_order(make_rows("pairs")), **settings),
                metrics=REWARDS)


def test_dpo_of_an_adapter(models_in):
    """The adapter before training travels to PEFT."""
    folder = models_in / "lm"
    spec = load_spec(folder)
    config = parse(Config, ["--data.path=x", "--out=y", "--method=dpo", "--lora.rank=4"])
    params = init_trained(SimpleNamespace(spec=spec), config.lora, open_mesh(config.mesh), SEED)
    save_adapter(models_in / "adapter", spec, Adapter(params, config.lora.alpha / config.lora.rank), str(folder))
    model = peft.PeftModel.from_pretrained(language_model(folder), models_in / "adapter", is_trainable=True)
    assert_same(ours(folder, "pairs", "--method=dpo", "--lora.rank=4", PADDED),
                theirs(trl.DPOTrainer, trl.DPOConfig, model, folder, in_order(make_rows("pairs"))), metrics=REWARDS)


@pytest.mark.parametrize(("trainer", "config", "arguments", "settings"), [
    pytest.param(CPOTrainer, CPOConfig, ["--method=cpo", "--preference.label_smoothing=0.1"],
                 {"label_smoothing": 0.1, "cpo_alpha": 1.0}, id="cpo"),
    pytest.param(CPOTrainer, CPOConfig, ["--method=alphapo", "--preference.gamma=0.5", "--preference.nll_weight=0.2"],
                 {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.5, "alpha": 0.25, "cpo_alpha": 0.2},
                 id="alphapo"),
    pytest.param(CPOTrainer, CPOConfig, ["--method=simpo", "--preference.nll_weight=0.3"],
                 {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.3}, id="simpo"),
    pytest.param(ORPOTrainer, ORPOConfig, ["--method=orpo"], {}, id="orpo"),
])
def test_without_a_reference_model(models_in, trainer, config, arguments, settings):
    folder = models_in / "lm"
    assert_same(ours(folder, "pairs", "--lora=null", PADDED, *arguments),
                theirs(trainer, config, language_model(folder), folder, in_order(make_rows("pairs")), **settings),
                metrics=("rewards/chosen", "rewards/rejected", "rewards/margins", "nll_loss"))


def test_kto(models_in):
    folder = models_in / "lm"
    rows = in_order(make_rows("unpaired"), reverse=True)
    assert all(len({row["prompt"] for row in rows[i:i + BATCH]}) == BATCH for i in range(0, len(rows), BATCH))
    mine = ours(folder, "unpaired", "--method=kto", "--lora=null", "--preference.desirable_weight=0.8", PADDED)
    other = theirs(trl.KTOTrainer, trl.KTOConfig, language_model(folder), folder, rows, desirable_weight=0.8)
    assert max(line["kl"] for line in other) > 0
    assert_same(mine, other, metrics=("kl",))


def test_unpaired_rows_without_a_reference_point(models_in):
    folder = models_in / "lm"
    rows = in_order(make_rows("unpaired"))
    assert_same(ours(folder, "unpaired", "--method=apo_zero_unpaired", "--lora=null", PADDED),
                theirs(trl.KTOTrainer, trl.KTOConfig, language_model(folder), folder, rows,
                       loss_type="apo_zero_unpaired"))


def test_reward_model(models_in):
    """With margins and centering, from a checkpoint that has a head."""
    folder = models_in / "reward"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert_same(ours(folder, "reward", "--method=reward", "--lora=null", "--centering=0.02"),
                theirs(trl.RewardTrainer, trl.RewardConfig, model, folder, in_order(make_rows("reward")),
                       center_rewards_coefficient=0.02),
                metrics=("accuracy", "margin", "mean_reward", "min_reward", "max_reward"))


def ids(text):
    return [WORDS.index(word) for word in text.split()]


def batches(kind):
    rows = in_order(make_rows(kind))
    return [rows[i:i + BATCH] for i in range(0, len(rows), BATCH)]


def test_classifier(models_in):
    def loss(model, rows):
        scores = torch.cat([model(torch.tensor([ids(row["text"])])).logits for row in rows])
        return cross_entropy(scores, torch.tensor([row["label"] for row in rows]))

    folder = models_in / "classifier"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert_same(ours(folder, "classify", "--method=classify", "--lora=null", "--labels=['0', '1', '2']"),
                torch_loop(model, batches("classify"), loss))


def test_losses_that_trl_lacks(models_in):
    """Conservative DPO, BCO with the mean reward of all batches until then as its shift, and the loss of SLiC-HF."""
    folder = models_in / "lm"
    reference, rewards = language_model(folder), []

    def sums(model, prompt, answer):
        text = torch.tensor([[*ids(prompt), *ids(answer), WORDS.index("</s>")]])
        logprobs = model(text).logits[0, :-1].log_softmax(-1).gather(-1, text[0, 1:, None])[:, 0]
        return logprobs[len(ids(prompt)) - 1:]

    def loss(model, rows):
        of = lambda model, side: [sums(model, row["prompt"], row[side]) for row in rows]
        total = lambda parts: torch.stack([part.sum() for part in parts])
        imitated = of(model, "chosen")
        chosen, rejected = total(imitated), total(of(model, "rejected"))
        with torch.no_grad():
            h_chosen, h_rejected = chosen - total(of(reference, "chosen")), rejected - total(of(reference, "rejected"))
            rewards.append(0.1 * (h_chosen + h_rejected).mean() / 2)
            shift = torch.stack(rewards).mean()
            reference_chosen, reference_rejected = chosen - h_chosen, rejected - h_rejected
        h_chosen, h_rejected = chosen - reference_chosen, rejected - reference_rejected
        margin = 0.1 * (h_chosen - h_rejected)
        cdpo = -0.8 * logsigmoid(margin) - 0.2 * logsigmoid(-margin)
        bco = -logsigmoid(0.1 * h_chosen - shift) - logsigmoid(shift - 0.1 * h_rejected)
        slic = torch.relu(3.0 - (chosen - rejected))
        return (cdpo + 0.5 * bco + 0.2 * slic).mean() - 0.2 * 0.7 * torch.cat(imitated).mean()

    mine = ours(folder, "pairs", "--method=dpo", "--lora=null", PADDED, "--loss=[cdpo, bco, slic_hf]",
                "--loss_weights=[1.0, 0.5, 0.2]", "--preference.beta=0.1", "--preference.label_smoothing=0.2",
                "--preference.margin=3.0", "--preference.nll_weight=0.7")
    assert_same(mine, torch_loop(language_model(folder), batches("pairs"), loss))
