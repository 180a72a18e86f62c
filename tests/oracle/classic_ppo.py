"""Prints, as JSON, what the functions of TRL 0.11.4's PPO trainer compute from arrays in a file.

    python tests/oracle/classic_ppo.py WHEEL arrays.npz

They are called without a trainer. The wheel is read from the file, so that the installed TRL is not in the way.
"""

import json
import sys
import types
import unittest.mock

import numpy as np

sys.path.insert(0, sys.argv[1])
# Of its command line only; not needed here.
sys.modules["tyro"] = unittest.mock.MagicMock()

import torch  # noqa: E402
from trl.trainer.ppo_config import PPOConfig  # noqa: E402
from trl.trainer.ppo_trainer import PPOTrainer  # noqa: E402
from trl.trainer.utils import AdaptiveKLController, RunningMoments  # noqa: E402

arrays = {name: torch.tensor(value) for name, value in np.load(sys.argv[2]).items()}
mask, found = arrays["mask"], {}
for kind in ("kl", "abs", "mse", "full"):
    config = PPOConfig(kl_penalty=kind)
    me = types.SimpleNamespace(config=config, kl_ctl=types.SimpleNamespace(value=0.3))
    me._kl_penalty = lambda a, b, me=me: PPOTrainer._kl_penalty(me, a, b)
    suffix = "_full" if kind == "full" else ""
    rewards, _, kl = PPOTrainer.compute_rewards(
        me, arrays["scores"], arrays["logprobs" + suffix], arrays["reference" + suffix], mask)
    found[f"rewards_{kind}"], found[f"kl_{kind}"] = rewards, kl
for whiten in (True, False):
    me.config = PPOConfig(whiten_rewards=whiten)
    # Whitened rewards of padding are not 0 there, and enter the advantages before it: compared without padding.
    used = torch.ones_like(mask) if whiten else mask
    values, advantages, returns = PPOTrainer.compute_advantages(me, arrays["values"], found["rewards_kl"].clone(), used)
    found[f"advantages_{whiten}"], found[f"returns_{whiten}"] = advantages, returns
me.config = PPOConfig()
policy, value, stats = PPOTrainer.loss(
    me, arrays["logprobs"], values, torch.randn(*mask.shape, 5), arrays["new_values"], arrays["new_logprobs"], mask,
    found["advantages_False"], found["returns_False"])
flat = {"/".join((a, b)): b_value for a, own in stats.items() if isinstance(own, dict) for b, b_value in own.items()}
flat |= {name: own for name, own in stats.items() if not isinstance(own, dict)}
found |= {"policy_loss": policy, "value_loss": value / me.config.vf_coef}
found |= {name: flat[name] for name in ("policy/approxkl", "policy/policykl", "policy/clipfrac", "val/clipfrac")}
controller = AdaptiveKLController(0.3, 6.0, 10_000)
coefs = []
for kl in arrays["kls"].tolist():
    controller.update(kl, 256)
    coefs.append(controller.value)
found["coefs"] = torch.tensor(coefs)
moments = RunningMoments(types.SimpleNamespace(use_distributed=False, distributed_type="NO"))
deviations = []
for batch in arrays["batches"]:
    moments.update(batch)
    deviations.append([float(moments.mean), float(moments.std)])
found["moments"] = torch.tensor(deviations)
print(json.dumps({name: np.asarray(value.detach()).tolist() for name, value in found.items()}))
