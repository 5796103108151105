"""A sweep: the same training once for each learning rate, all at once, and the best one kept."""

import numpy as np

import crucible_kitchen as ck


@ck.stage(writes="data")
def make_data(rows: int, rng: ck.Rng) -> tuple:
    x = rng.standard_normal((rows, 8))
    return x, x @ rng.standard_normal(8) + 0.1 * rng.standard_normal(rows)


@ck.stage(writes="weights")
def train(data: tuple, rate: float, steps: int) -> np.ndarray:
    x, y = data
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        weights -= rate * x.T @ (x @ weights - y) / len(y)
    return weights


@ck.stage(writes="loss")
def measure(data: tuple, weights: np.ndarray) -> float:
    x, y = data
    return float(np.mean((x @ weights - y) ** 2))


@ck.stage(writes="best")
def choose(rates: list, losses: list) -> tuple:
    return min(zip(losses, rates, strict=True))


# Each copy starts from the state before the block and sees nothing of the others; what is collected
# comes back as lists in the order of the items, whichever copy was ready first.
sweep = ck.workflow("sweep")[
    make_data,
    ck.fan_out("trials", over="rates", collect={"loss": "losses"})[
        train.bind(rate="trials.item"), measure
    ],
    choose,
]

if __name__ == "__main__":
    config = {"rows": 200, "steps": 20, "rates": [0.01, 0.03, 0.1, 0.3, 2.0]}
    state = ck.run(sweep, config, handlers=()).context.state
    for rate, loss in zip(config["rates"], state.losses, strict=True):
        print(f"rate {rate:<5} loss {loss:10.4f}{'  best' if (loss, rate) == state.best else ''}")
