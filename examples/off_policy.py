"""Sampling and training at the same time: rollouts from weights that are at most two steps old."""

import sys

import crucible_kitchen as ck
from crucible_kitchen.context import Metrics
from crucible_kitchen.ports import SamplingClient, Session, TrainingClient

PROMPT = list(b"Name a number.")


def reward(tokens: list[int]) -> float:
    return float(sum(token in b"02468" for token in tokens if token < 256))


@ck.stage(writes=("session", "weights", "step"))
def start(model: str, *, training_client: TrainingClient) -> tuple[Session, str, int]:
    session = training_client.start_session({"model": model})
    return session, training_client.save_checkpoint(session, "weights-0").result(), 0


def rollout(model: str, weights: str, step: int, *, sampling_client: SamplingClient) -> dict:
    """One group of answers from the newest weights, with the step they come from."""
    sampler = sampling_client.start_session({"model": model, "checkpoint_path": weights})
    params = {"max_tokens": 32, "temperature": 1.0, "seed": step}
    answers = sampling_client.sample(sampler, PROMPT, 4, params).result()
    sampling_client.close_session(sampler)
    return {"answers": answers, "step": step}


@ck.stage(writes=("weights", "step"))
def learn(
    session: Session, group: dict, step: int, *, training_client: TrainingClient, metrics: Metrics
) -> tuple[str, int]:
    """A policy-gradient step on one group: answers better than the others become likelier."""
    rewards = [reward(answer.tokens) for answer in group["answers"]]
    datums = []
    for answer, its_reward in zip(group["answers"], rewards, strict=True):
        asked = [0.0] * (len(PROMPT) - 1)
        advantage = its_reward - sum(rewards) / len(rewards)
        inputs = {
            "target_tokens": [*PROMPT[1:], *answer.tokens],
            "logprobs": asked + list(answer.logprobs),
            "advantages": asked + [advantage] * len(answer.tokens),
        }
        model_input = [*PROMPT, *answer.tokens[:-1]]
        datums.append({"model_input": model_input, "loss_fn_inputs": inputs})
    training_client.forward_backward(session, datums, "importance_sampling").result()
    training_client.optim_step(session, 1e-3).result()
    metrics.record("staleness", step - group["step"], step=step)
    return training_client.save_checkpoint(session, f"weights-{step + 1}").result(), step + 1


off_policy = ck.workflow("off_policy")[
    start,
    ck.async_loop(
        "rl",
        producer=rollout,
        stop_when=lambda step, max_steps: step >= max_steps,
        max_staleness=2,
    )[learn.bind(group="rl.item")],
]

if __name__ == "__main__":
    max_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    adapters = {"training_client": "noop", "sampling_client": "noop"}
    result = ck.run(off_policy, {"model": "none", "max_steps": max_steps}, adapters=adapters)
    staleness = [record.value for record in result.metrics.history("staleness")]
    print(f"{result.context.state.step} steps, staleness at most {max(staleness):.0f}")
