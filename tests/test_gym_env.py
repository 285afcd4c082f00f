"""The gymnasium face of a search: what other libraries check, and that it is the same problem."""

from __future__ import annotations

import gymnasium.utils.env_checker
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C

from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.search.environment import PlanEnv
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.testing import problems

OBJECTIVE = AccuracyUnderBudget()
SURFACES = [problems.channels, problems.bits, problems.removal]


def environment(surface=problems.bits, layers: int = 5, budget: float = 0.5) -> PlanEnv:
    problem = surface(layers=layers, budget=budget)
    return PlanEnv(problem.problem, problem, OBJECTIVE)


class Counted:
    """Scores like another, and counts how often; raises ``error`` instead if there is one."""

    def __init__(self, evaluate, error=None):
        self.key, self._evaluate, self._error, self.calls = evaluate.key, evaluate, error, 0

    def __call__(self, plan):
        self.calls += 1
        if self._error:
            raise self._error
        return self._evaluate(plan)


def episode(env: PlanEnv, actions: list[float]) -> tuple[list[float], dict]:
    env.reset()
    steps = [env.step(np.array([action], dtype=np.float32)) for action in actions]
    assert [ended for _, _, ended, _, _ in steps] == [False] * (len(steps) - 1) + [True]
    assert not any(truncated for _, _, _, truncated, _ in steps)
    return [reward for _, reward, *_ in steps], steps[-1][-1]


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.filterwarnings("error")
def test_stable_baselines3_and_gymnasium_find_nothing_wrong(surface, layers):
    stable_baselines3.common.env_checker.check_env(environment(surface, layers))
    gymnasium.utils.env_checker.check_env(environment(surface, layers), skip_render_check=True)


def test_what_is_seen_belongs_to_who_sees_it():
    env = environment(layers=1)
    first, _ = env.reset()
    first[:] = -5
    last = env.step(np.zeros(1, dtype=np.float32))[0]
    assert env.observation_space.contains(last)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_episode_ends_in_a_plan_that_meets_the_budget(data):
    env = environment(data.draw(st.sampled_from(SURFACES)), budget=data.draw(st.sampled_from([0.3, 0.6, 1.0])))
    rewards, info = episode(env, data.draw(st.lists(st.floats(-1, 1, width=32), min_size=5, max_size=5)))
    assert env.problem.budget.meets(info["plan"])
    assert rewards == [0, 0, 0, 0, OBJECTIVE(env.evaluate(info["plan"]))]


def test_action_zero_is_the_uniform_policy():
    env = environment()
    assert episode(env, [0.0] * 5)[1]["plan"] == Uniform(env.problem, 0, OBJECTIVE).ask().plan


def test_the_action_is_told_as_it_was_carried_out():
    env = environment(budget=0.3)
    env.reset()
    told = [env.step(np.ones(1, dtype=np.float32))[-1] for _ in range(5)]
    again = episode(env, [float(info["action"][0]) for info in told])[1]["plan"]
    assert again == told[-1]["plan"]
    assert told[-1]["action"] < 1


def test_a_plan_that_cannot_be_scored_has_a_reward_too():
    env = environment(layers=2)
    env.evaluate, env.failed = Counted(env.evaluate, TrialFailedError("the loss is nan")), -7
    rewards, info = episode(env, [0.0, 0.0])
    assert rewards[-1] == -7
    assert info["failure"] == "the loss is nan"
    assert env.best is None


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_a_failure(reward):
    env = environment(layers=2)
    env.objective = lambda score: reward
    rewards, info = episode(env, [0.0, 0.0])
    assert rewards[-1] == -1
    assert f"the reward is {reward}" in info["failure"]
    assert env.best is None


def test_a_network_is_scored_once_and_the_best_plan_is_kept():
    env = environment(layers=3)
    env.evaluate = Counted(env.evaluate)
    for actions in ([-1.0] * 3, [0.0] * 3, [0.0] * 3):
        info = episode(env, actions)[1]
    assert env.evaluate.calls == 2
    assert (env.best.plan, env.best.number, env.best.score) == (info["plan"], 1, info["score"])


def test_steps_outside_an_episode_and_actions_that_are_none_are_sentences():
    env = environment(layers=1)
    with pytest.raises(CompressError, match="call reset"):
        env.step(np.zeros(1, dtype=np.float32))
    env.reset()
    with pytest.raises(CompressError, match="the action is nan"):
        env.step(np.full(1, np.nan, dtype=np.float32))
    env.step(np.zeros(1, dtype=np.float32))
    with pytest.raises(CompressError, match="call reset"):
        env.step(np.zeros(1, dtype=np.float32))


def test_actions_beyond_the_ends_are_the_ends():
    env = environment(budget=1.0)
    for beyond, end in ((-1.5, -1.0), (1.5, 1.0)):
        assert episode(env, [beyond] * 5)[1]["plan"] == episode(env, [end] * 5)[1]["plan"]


def test_nothing_to_choose_is_refused():
    with pytest.raises(CompressError, match="nothing to choose"):
        environment(layers=0)


def test_another_agent_trains_on_it():
    env = environment()
    agent = A2C("MlpPolicy", env, n_steps=5, seed=0, device="cpu").learn(50)
    assert agent.num_timesteps == 50
