"""A loop that alternates rollouts and updates on a Session; as a script, the same killed in its seventh step."""

import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import toy

from jaxllm import train

ROUNDS, UPDATES = 10, 2


def roll_out(state, step):
    """Fake rollout: tokens drawn with the current parameters, `[rows, length]`."""
    noise = np.random.default_rng((toy.SEED, step)).gumbel(size=(toy.BATCH, toy.LENGTH, toy.VOCAB))
    logits = np.asarray(state.params["embed"] @ state.params["head"]["kernel"])[toy.batch_fn(step)["tokens"]]
    return (logits + noise).argmax(-1).astype(np.int32)


def run(folder, at_step=None, **options):
    """Runs or resumes the loop; two agents' states and the last rollout are one checkpoint."""
    tree = {"agents": [toy.new_state(), toy.new_state()],
            "rollout": jax.device_put(np.zeros((toy.BATCH, toy.LENGTH), np.int32))}
    sidecar = {"mean_tokens": []}
    with train.Checkpointer(folder / "checkpoints") as checkpointer:
        first = checkpointer.latest_step() or 0
        if first:
            tree, sidecar = checkpointer.restore(tree)
        with (train.MetricsWriter(folder / "metrics.jsonl", first) as metrics,
              train.Session(first, ROUNDS, log_every=1, save_every=3, checkpointer=checkpointer, metrics=metrics,
                            progress=False, **options) as session):
            for step in session.steps():
                agents, last = tree["agents"], np.asarray(tree["rollout"])
                rollout = roll_out(agents[0], step)
                # The update also learns the rollout of the round before: it has to survive a kill.
                for update in range(UPDATES):
                    batch = toy.batch_fn(step) | {"targets": rollout if update else last}
                    agents = [toy.step_fn()(agent, toy.FROZEN, batch) for agent in agents]
                    numbers, agents = [metric for _, metric in agents], [agent for agent, _ in agents]
                sidecar["mean_tokens"].append(float(rollout.mean()))
                tree = {"agents": agents, "rollout": jax.device_put(rollout)}
                session.log(step, numbers[0], host={"rollout": {"mean_token": float(rollout.mean())}},
                            tokens=rollout.size)
                session.save_if_due(step, tree, sidecar)
                if at_step is not None:
                    at_step(step)
            session.finish(tree, sidecar)
    return tree, sidecar, session


def kill(step):
    if step == 6:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    run(Path(sys.argv[1]), kill)
