"""FedAvg's plan: every client gets and trains the whole model."""

from small_rounds import TRAINING, make_method
from tiny_models import tiny

from leff.methods.method import RoundContext
from leff.wire.messages import Capacity


def test_everyone_trains_every_layer(store):
    model = tiny("gpt2", "generation")
    method = make_method("fedavg", "generation", store)
    reports = [Capacity(4, 1, 10), Capacity(2, 3, 5)]
    plan = method.plan(model, RoundContext(1, 0, TRAINING), reports)
    assert [job.client for job in plan.jobs] == [2, 4]
    assert all(job.block == (0, 1, 2, 3) and len(job.segments) == 1 for job in plan.jobs)
    assert plan.jobs[0].parts == plan.jobs[1].parts
    assert plan.jobs[0].seed != plan.jobs[1].seed
    assert {job.round for job in plan.jobs} == {1} and plan.jobs[0].training == TRAINING
    assert plan.facts == {} and method.state() == {}
