"""An iteration of PPO against TRL's last PPO trainer: the same model, prompts and settings, in one run, taking turns.

    python scripts/bench_ppo.py TRL_WHEEL [--iterations 4] [--batch 16] [--repeats 2] [--ragged] [--json FILE]
    python scripts/bench_ppo.py --cory [the same]

TRL_WHEEL is the file of trl 1.12 (`pip download --no-deps trl==1.12.0`), the last one with a PPO trainer; it is read
from the file. A decoder of 26 million random parameters; prompts of 16 to 48 tokens, or with --ragged in the lengths of
64 rows of human preferences, which TRL pads; responses of 32; all weights, a critic of its own, k1 in the reward,
temperature 0.7, four passes over one minibatch. Seconds of an iteration (rollout, scoring, updates) are means without
the first, which compiles; a ratio is the median over repeats. `shared` has a value head on the policy instead of a
critic.

Then an iteration of CORY with adapters against two of PPO, by time and by memory: one reads the prompts that CORY's
pioneer had in this iteration, and one those of its observer, token by token. The model has the 1,280 tokens of the
packaged tokenizer there, so that responses are texts of about their own length. All iterations are made twice, and
timed the second time, when every program is compiled. `--cory` measures this part alone, without TRL_WHEEL.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_preference import LENGTHS

CONFIG = dict(vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8,
              num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=1,
              eos_token_id=2, pad_token_id=0)
RESPONSE, PASSES, LR, TEMPERATURE, KL = 32, 4, 1e-5, 0.7, 0.05


def prompts_of(count: int, ragged: bool) -> list[list[int]]:
    draws = np.random.default_rng(0)
    sizes = [LENGTHS[i % len(LENGTHS)][0] for i in range(count)] if ragged else draws.integers(16, 49, count)
    return [draws.integers(3, 1280, size).tolist() for size in sizes]


def trl(folder: Path, wheel: str, options: argparse.Namespace) -> list[float]:
    """Trains with TRL; returns the seconds of every iteration."""
    sys.path.insert(0, wheel)
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import torch
    import transformers
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(**CONFIG)
    scoring = transformers.LlamaConfig(**CONFIG | dict(num_labels=1))
    small = transformers.LlamaConfig(**CONFIG | dict(num_labels=1, num_hidden_layers=1, hidden_size=64,
                                                     intermediate_size=64, num_key_value_heads=8))
    policy, reference = (transformers.AutoModelForCausalLM.from_config(shape) for _ in range(2))
    reference.load_state_dict(policy.state_dict())
    critic, reward = (transformers.AutoModelForSequenceClassification.from_config(one) for one in (scoring, small))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token_id = 0
    prompts = prompts_of(options.batch * options.iterations, options.ragged)
    rows = Dataset.from_list([{"input_ids": ids} for ids in prompts])
    config = PPOConfig(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=options.batch,
                       gradient_accumulation_steps=1, total_episodes=options.batch * options.iterations,
                       num_ppo_epochs=PASSES, num_mini_batches=1, response_length=RESPONSE, learning_rate=LR,
                       temperature=TEMPERATURE, kl_coef=KL, kl_estimator="k1", num_sample_generations=0,
                       local_rollout_forward_batch_size=options.batch, report_to=[], use_cpu=True, bf16=False,
                       gradient_checkpointing=False, save_strategy="no", disable_tqdm=True)
    moments = [time.perf_counter()]

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

    trainer = PPOTrainer(args=config, processing_class=tokenizer, model=policy, ref_model=reference,
                         reward_model=reward, value_model=critic, train_dataset=rows, eval_dataset=rows,
                         callbacks=[Watch()])
    trainer.remove_callback(transformers.PrinterCallback)
    moments[0] = time.perf_counter()
    trainer.train()
    return np.diff(moments).tolist()


def random_model(vocabulary: int = 8192) -> Any:
    import jax

    import jaxllm
    from jaxllm.models import init_params
    from jaxllm.models.families import read_config
    from jaxllm.text import load_tokenizer

    spec = read_config(dict(CONFIG, model_type="llama", vocab_size=vocabulary), "benchmark")
    params = jax.jit(lambda key: init_params(spec, key))(jax.random.key(0))
    return jaxllm.Model(spec, params, load_tokenizer("tiny"))


def settings(options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    from jaxllm.config import SamplingConfig
    from jaxllm.rl.config import KlConfig, PolicyConfig, RlTrainConfig

    return dict(iterations=options.iterations, lora=None, kl=KlConfig(kind="k1", coef=KL),
                sampling=SamplingConfig(max_tokens=RESPONSE, temperature=TEMPERATURE),
                policy=PolicyConfig(value="separate"),
                train=RlTrainConfig(batch_size=options.batch, passes=PASSES, lr=LR)) | changes


def ours(shared: bool, options: argparse.Namespace) -> list[float]:
    """Makes iterations of one agent; returns the seconds of each."""
    from jaxllm.devices import make_mesh
    from jaxllm.generate import Generator
    from jaxllm.rl import Learner, RlConfig, init_agent
    from jaxllm.rl.config import PolicyConfig
    from jaxllm.rl.rollouts import rollout_shape

    config = RlConfig(**settings(options, **({"policy": PolicyConfig()} if shared else {})))
    model, mesh = random_model(), make_mesh(1)
    base = Generator(model, donate=True)
    prompts = [np.array(ids, np.int32) for ids in prompts_of(options.batch * options.iterations, options.ragged)]
    shape = rollout_shape([len(ids) for ids in prompts], RESPONSE, options.batch, 1, packed=True)
    learner = Learner.make(base.model.spec, config, shape, mesh)
    state, seconds = init_agent(base, config, learner.optimizer, mesh, 0), []
    for iteration in range(options.iterations):
        start = time.perf_counter()
        own = prompts[iteration * options.batch:(iteration + 1) * options.batch]
        rollout = learner.sample(base, state, own, RESPONSE, iteration)
        experience = learner.evaluate(base, state, rollout)
        scores = (rollout.ids % 2 == 0).mean(1).astype(np.float32)
        state, _ = learner.update(base, state, experience, scores, np.arange(options.batch, dtype=np.int32))
        seconds.append(time.perf_counter() - start)
    return seconds


def cory(options: argparse.Namespace) -> dict[str, Any]:
    """Compares an iteration of two agents with one of an agent alone at the prompts of each of them."""
    import jax

    from jaxllm.cory import TeamConfig
    from jaxllm.cory.config import CoryConfig, HeldBackConfig
    from jaxllm.cory.team import Team, Trainer, Turn
    from jaxllm.devices import make_mesh
    from jaxllm.generate import Generator
    from jaxllm.models import LoraConfig
    from jaxllm.rl.config import PolicyConfig
    from jaxllm.rl.rewards import Part, Reward

    reward = Reward([Part(lambda prompts, responses, rows: [float(len(text)) for text in responses])])
    base = Generator(random_model(1280), donate=True)
    tokenizer = base.model.tokenizer
    rows = [{"prompt": tokenizer.decode(ids)} for ids in prompts_of(options.batch, options.ragged)]
    configs = [TeamConfig(agents=agents, cory=CoryConfig(observer_template="{query}{response}\n{query}"),
                          held_back=HeldBackConfig(rows=0),
                          **settings(options, lora=LoraConfig(), policy=PolicyConfig())) for agents in (1, 2)]
    cory = Trainer.make(configs[1], base, rows, [], reward, make_mesh(1))
    # An agent alone has the compiled programs, and shapes of rows, of the role with its prompts.
    alone = {f"ppo, {role}'s prompts": dataclasses.replace(cory, config=configs[0], learners=(learner,))
             for role, learner in zip(("pioneer", "observer"), cory.learners, strict=True)}
    trainers = {"cory": cory, **alone}
    states: dict[str, Team] = {}
    seconds: dict[str, float] = {}
    tokens: dict[str, float] = {}  # of a prompt

    def iterate(name: str, iteration: int, own: list[dict[str, str]]) -> list[Turn]:
        start = time.perf_counter()
        states[name], _, turns = dataclasses.replace(trainers[name], rows=own).iterate(states[name], iteration)
        seconds[name] += (time.perf_counter() - start) / options.iterations
        lengths = [len(ids) for turn in turns for ids in turn.rollout.prompts]
        tokens[name] += float(np.mean(lengths)) / options.iterations
        return turns

    for _ in range(2):  # the first time compiles
        for name, trainer in trainers.items():
            states[name], seconds[name], tokens[name] = trainer.start(), 0.0, 0.0
        for iteration in range(options.iterations):
            both = iterate("cory", iteration, rows)
            for name, turn in zip(alone, both, strict=True):
                own = [{"prompt": tokenizer.decode(ids)} for ids in turn.rollout.prompts]
                [single] = iterate(name, iteration, own)
                prompts = [sorted(ids.tolist() for ids in one.rollout.prompts) for one in (turn, single)]
                assert prompts[0] == prompts[1], f"{name} are not those of CORY"
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    live = {name: size(base.params) + size(states[name].agents) for name in trainers}
    return {"seconds": seconds, "prompt_tokens": tokens, "live_bytes": live}


def measured(*arguments: str) -> Any:
    env = dict(os.environ, HF_HUB_OFFLINE="1", JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([sys.executable, __file__, *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", nargs="?", default="")
    for name, value in (("iterations", 4), ("batch", 16), ("repeats", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--ragged", action="store_true", help="prompts in the lengths of human preferences")
    parser.add_argument("--cory", action="store_true", help="measure CORY against PPO alone")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # this process measures one side
    options = parser.parse_args()
    if options.side:
        from jaxllm.assets import resolve

        sides = {"trl": lambda: trl(resolve("tiny"), options.wheel, options),
                 "ours": lambda: ours(False, options), "shared": lambda: ours(True, options),
                 "cory": lambda: cory(options)}
        print(json.dumps(sides[options.side]()))
        return
    if not options.wheel and not options.cory:
        parser.error("TRL_WHEEL is missing")
    counts = [f"--{name}={getattr(options, name)}" for name in ("iterations", "batch")]
    counts += ["--ragged"] if options.ragged else []
    run = lambda side: measured(options.wheel, *counts, f"--side={side}")
    seconds: dict[str, list[float]] = {} if options.cory else {"trl": [], "ours": [], "shared": []}
    for _ in range(options.repeats):
        for side, own in seconds.items():
            own.append(float(np.mean(run(side)[1:])))
    if seconds:
        print("| side | seconds an iteration | TRL / ours |\n|---|---|---|")
    for side, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["trl"], own, strict=True))
        print(f"| {side} | {statistics.median(own):.2f} | {ratio:.2f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds}, indent=2) + "\n")
    teams = [run("cory") for _ in range(options.repeats)]
    print("\n| side | seconds an iteration | tokens of a prompt |\n|---|---|---|")
    for name in teams[0]["seconds"]:
        own, lengths = ([team[key][name] for team in teams] for key in ("seconds", "prompt_tokens"))
        print(f"| {name} | {statistics.median(own):.2f} | {statistics.median(lengths):.1f} |")
    ratios = [own["cory"] / (sum(own.values()) - own["cory"]) for own in (team["seconds"] for team in teams)]
    one, two = (teams[0]["live_bytes"][name] for name in ("ppo, observer's prompts", "cory"))
    print(f"\nCORY over both PPO together: {', '.join(f'{ratio:.3f}' for ratio in ratios)}, median "
          f"{statistics.median(ratios):.3f}. Base, agents and optimizers {two:,} bytes, PPO {one:,}: ratio "
          f"{two / one:.3f}.")
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, "cory": teams}, indent=2) + "\n")


if __name__ == "__main__":
    main()
