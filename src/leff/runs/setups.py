"""From a configuration to what one client does: its method's choice, as plans and runs count it.

choice_of(config, "leff", layers=2).context
"""

from leff.capacity.candidates import Setting
from leff.capacity.footprint import EXACT, Choice
from leff.runs.config import RunConfig
from leff.runs.options import ContextConfig


def choice_of(config: RunConfig, method: str, **numbers: int) -> Choice:
    """Return the configuration's own choice but for `numbers`: layers, rank, base_bits.

    Where the context is to be chosen (auto), the layers around the block are as they are.
    """
    own, training, clients = config.context, config.training, config.clients
    return Choice(
        **{"rank": config.method.rank, "base_bits": config.method.base_bits, **numbers},
        context=EXACT if own.name == "auto" else fixed_setting(own).context,
        clients=max(1, round(clients.count * clients.per_round)),
        embedding_bits=own.embedding_bits if method == "leff" else 32,
        batch_size=training.batch_size,
        length=config.data.max_length,
        precision=training.precision,
        accumulation=training.accumulation,
        checkpointing=training.checkpointing,
        optimizer=training.optimizer,
        proximal=training.proximal,
    )


def fixed_setting(context: ContextConfig) -> Setting:
    """Return the setting of a configuration whose context is not auto."""
    rate = 1.0 if {context.name, context.suffix} <= {"quantise", ""} else context.rate
    return Setting(context.name, rate, context.bits, context.suffix)
