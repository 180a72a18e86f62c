"""Two agents of the packaged model, with a reward that differs from response to response."""

from jaxllm.cory import Config, Trainer
from jaxllm.devices import make_mesh
from jaxllm.generate import Generator
from jaxllm.parsing import parse
from jaxllm.rl.rewards import Part, Reward

THINGS = ("soup", "lamp", "boat", "bed", "song", "coat", "room", "bread")
ROWS = [{"prompt": f"Review: The {thing} in"} for thing in THINGS]


def even(prompts, responses, rows):
    """Rewards short words, for a number that differs from response to response."""
    return [float(len(text.split())) for text in responses]


def make(model, *arguments, reward=even, rows=ROWS):
    config = parse(Config, ["--data.path=x", "--out=y", "--reward=words", "--rewards.words={a: 1}", "--agents=2",
                            "--sampling.max_tokens=6", "--train.batch_size=4", "--train.passes=1", "--train.lr=1e-3",
                            "--lora.rank=4", "--held_back.rows=2", *arguments])
    return Trainer.make(config, Generator(model), rows, rows[:2], Reward([Part(reward)]), make_mesh(1))
