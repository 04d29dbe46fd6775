"""The commented `device.toml` that `leff device join` writes.

settings_text(measure_device("auto"), "kitchen", "auto")
"""

import json

from leff.capacity.profile import Profile


def settings_text(profile: Profile, name: str, device: str) -> str:
    """Return a device's settings with what was measured."""
    memory, speed = profile.memory_bytes // 10**6, profile.flops_per_second / 1e9
    speed_text = f"{speed:.4f}GFLOP/s"
    return f"""# This device.  `leff device start --set KEY=VALUE` overrides a line.
name = {json.dumps(name)}
threads = {profile.threads}
device = {json.dumps(device)}         # auto, cpu, cuda, cuda:1, mps

[data]
# train = "train.jsonl"    # or --data; of several files (a list, or a pattern) each is a client
# validation = "dev.jsonl" # else a share of each file is held out to measure the model on
validation_share = 0.1
# columns = {{input = "question", target = "answer"}}     # our column = yours

[capacity]
memory = "{memory}MB"       # for the peak of a step: what was free
speed = "{speed_text}"  # measured on a calibration step
# down = "20Mbit/s"        # with both, rounds are planned in time
# up = "5Mbit/s"
# layers = 2               # the most layers to train; without it, as many as fit

[limits]                   # what a job may ask of this device; more is refused
cache = "8GB"
download = "8GB"
upload = "4GB"
time = "24h"
epochs = 100.0
# epsilon = 8.0            # most that all updates together may tell; a job without noise is refused
# delta = 1e-5
# least_cohort = 3         # updates leave in secure sums only, over so many clients at least
"""
