"""A client whose memory really runs out: run by `test_exhaustion.py` in a process of its own.

    python tests/starved.py FOLDER

Client 0 trains three layers of a GPT-2, 164 MB with AdamW's moments, where the process may take
60 MB more of address space.  In the next round a resumed server has what was learnt of it.
"""

import json
import resource
import sys
from pathlib import Path

import torch
from small_rounds import TRAINING, clients_of, fleet_of, make_method
from transformers import GPT2Config

from leff.capacity.schedule import Limits
from leff.capacity.sizes import model_sizes
from leff.client import train as client
from leff.methods.method import RoundContext
from leff.methods.setup import ClientSetup
from leff.models import model_class
from leff.round import run_round
from leff.server import Server
from leff.wire.messages import Step
from leff.wire.parts import PartStore
from leff.wire.spool import Spool

CONFIG = GPT2Config(
    vocab_size=50, n_positions=32, n_embd=512, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0
)
ROOM = 60_000_000
FREE = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
real_train = client.train


def starving(job, *arguments):
    """Train; client 0's big job with little memory."""
    if job.client == 0 and len(job.block) == 3:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))
    try:
        return real_train(job, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, FREE)


def server_of(model, folder):
    setup = ClientSetup(step=Step(batch_size=4), length=12)
    limits = Limits(model_sizes(model, "generation"), setup)
    return Server(PartStore(folder / "parts"), Spool(folder / "updates"), limits)


def round_of(model, server, index):
    fleet = fleet_of(clients_of("generation", (4, 4)), (3, 1), server.store)
    method = make_method("leff", "generation", server.store)
    return run_round(model, method, fleet, RoundContext(index, 0, TRAINING), server).to_dict()


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = model_class(CONFIG, "generation").from_config(CONFIG)
    client.train = starving
    server = server_of(model, folder)
    records = [round_of(model, server, 0)]
    resumed = server_of(model, folder)
    resumed.load_state(json.loads(json.dumps(server.state())))
    records.append(round_of(model, resumed, 1))
    print(json.dumps(records))


if __name__ == "__main__":
    main()
