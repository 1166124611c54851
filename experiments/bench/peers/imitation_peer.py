"""imitation's GAIL, with stable-baselines3's PPO, on the two-template language as a gymnasium task.

A string is an episode of `horizon` steps; what is observed is the whole prefix (one-hot, zeros
where nothing is written yet), an action is the next token, and demonstrations are the expert's
strings. One round of GAIL is an update: strings of the policy, steps of the discriminator, steps of
PPO."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.bench.peers.protocol import Line


PACKAGES = ("imitation", "stable-baselines3", "gymnasium", "torch")
VENVS = 8
PPO = {"batch_size": 64, "n_epochs": 5, "learning_rate": 4e-4, "gamma": 0.95, "ent_coef": 0.0}
GAIL = {
    "demo_batch_size": 1024,
    "gen_replay_buffer_capacity": 512,
    "n_disc_updates_per_round": 8,
}


def expert(asked: dict, strings: int):
    """Strings of the two templates, [strings, horizon]."""
    import numpy as np

    draw, vocab, horizon = np.random.default_rng(0), asked["vocab"], asked["horizon"]
    template = (draw.random((strings, 1)) >= asked["weight"]).astype(int)
    leaves = draw.random((strings, horizon)) < asked["noise"]
    shift = draw.integers(1, vocab, (strings, horizon))
    return np.where(leaves, (template + shift) % vocab, template)


def seen(asked: dict, tokens):
    """What is observed of strings before each of their tokens and at the end, [strings,
    horizon + 1, horizon * vocab]."""
    import numpy as np

    one_hot = np.eye(asked["vocab"], dtype=np.float32)[tokens]
    count, horizon, vocab = one_hot.shape
    written = np.tri(horizon + 1, horizon, -1, dtype=np.float32)  # row t has the first t tokens
    whole = one_hot[:, None] * written[None, :, :, None]
    return whole.reshape(count, horizon + 1, horizon * vocab)


def transitions(asked: dict, tokens):
    """The strings as imitation's transitions."""
    import numpy as np
    from imitation.data.types import Transitions

    observed = seen(asked, tokens)
    last = np.zeros(tokens.shape, bool)
    last[:, -1] = True
    return Transitions(
        obs=observed[:, :-1].reshape(tokens.size, -1),
        acts=tokens.reshape(-1),
        next_obs=observed[:, 1:].reshape(tokens.size, -1),
        dones=last.reshape(-1),
        infos=np.array([{}] * tokens.size),
    )


def task(asked: dict):
    """A factory of environments."""
    import gymnasium
    import numpy as np

    vocab, horizon = asked["vocab"], asked["horizon"]

    class Strings(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0.0, 1.0, (horizon * vocab,), np.float32)
        action_space = gymnasium.spaces.Discrete(vocab)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place, self.prefix = 0, np.zeros(horizon * vocab, np.float32)
            return self.prefix.copy(), {}

        def step(self, action):
            self.prefix[self.place * vocab + int(action)] = 1.0
            self.place += 1
            return self.prefix.copy(), 0.0, self.place == horizon, False, {}

    return Strings


def gail(line: Line, asked: dict) -> None:
    """Rounds of GAIL of as many tokens as an update here has."""
    import torch
    from imitation.algorithms.adversarial.gail import GAIL as Gail
    from imitation.rewards.reward_nets import BasicRewardNet
    from stable_baselines3 import PPO as Ppo
    from stable_baselines3.common.vec_env import DummyVecEnv

    torch.set_num_threads(1)  # of networks so small: more threads wait for each other
    venv = DummyVecEnv([task(asked)] * VENVS)
    tokens = asked["batch"] * asked["horizon"]
    learner = Ppo("MlpPolicy", venv, n_steps=tokens // VENVS, seed=0, **PPO)
    trainer = Gail(
        demonstrations=transitions(asked, expert(asked, 4096)),
        venv=venv,
        gen_algo=learner,
        reward_net=BasicRewardNet(venv.observation_space, venv.action_space),
        **GAIL,
    )

    def step(updates: int) -> float:
        trainer.train(updates * tokens)
        return updates * tokens

    how = {"trainer": "GAIL.train with PPO('MlpPolicy')", "threads": 1, "environments": VENVS}
    how |= {"observed": "the whole prefix, one-hot"}
    line.serve(step, {**how, **PPO, **GAIL}, PACKAGES)


WORKS = {"gail": gail}
