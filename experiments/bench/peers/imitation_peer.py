"""imitation's GAIL, with stable-baselines3's PPO, on the two-template language as a gymnasium task.

A string is an episode of `horizon` steps; what is observed is the token before (the class of Markov
policies), an action is the next token, and demonstrations are the expert's strings. One round of
GAIL is an update: strings of the policy, steps of the discriminator, steps of PPO."""

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


def transitions(asked: dict, tokens):
    """The strings as imitation's transitions."""
    import numpy as np
    from imitation.data.types import Transitions

    start = np.full((len(tokens), 1), asked["vocab"])
    seen = np.concatenate([start, tokens], axis=1)
    last = np.zeros(tokens.shape, bool)
    last[:, -1] = True
    return Transitions(
        obs=seen[:, :-1].reshape(-1),
        acts=tokens.reshape(-1),
        next_obs=seen[:, 1:].reshape(-1),
        dones=last.reshape(-1),
        infos=np.array([{}] * tokens.size),
    )


def task(asked: dict):
    """A factory of environments."""
    import gymnasium

    class Strings(gymnasium.Env):
        observation_space = gymnasium.spaces.Discrete(asked["vocab"] + 1)
        action_space = gymnasium.spaces.Discrete(asked["vocab"])

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place = 0
            return asked["vocab"], {}

        def step(self, action):
            self.place += 1
            return int(action), 0.0, self.place == asked["horizon"], False, {}

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
    line.serve(step, {**how, **PPO, **GAIL}, PACKAGES)


WORKS = {"gail": gail}
