"""A workflow of one's own, on adapters that need neither a model nor a network."""

import crucible_kitchen as ck
from crucible_kitchen.ports import Session, TrainingClient


@ck.stage(writes="session")
def start(model: str, *, training_client: TrainingClient) -> Session:
    return training_client.start_session({"model": model})


@ck.stage(writes="loss")
def learn(session: Session, tokens: list, rate: float, *, training_client: TrainingClient) -> float:
    datum = {"model_input": tokens, "loss_fn_inputs": {"labels": tokens}}
    loss = training_client.forward_backward(session, [datum]).result().loss
    training_client.optim_step(session, rate).result()
    return loss


teach = ck.workflow("teach")[start, ck.loop("steps", over=range(20))[learn]]
config = {"model": "none", "tokens": [7, 8, 9], "rate": 1e-3}
result = ck.run(teach, config, adapters={"training_client": "noop"})
print(f"loss {result.context.state.loss:.3f}")
