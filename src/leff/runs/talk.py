"""A conversation with a trained model.

talk = Talk("runs/support")
talk.say("My parcel is late.")       # and the next question, which the model reads after it
"""

from dataclasses import replace
from pathlib import Path

from leff.errors import ConfigError
from leff.runs.trained import read_trained, run_config
from leff.tasks.chat_form import chat_form
from leff.tasks.generation import generate
from leff.tasks.text_form import AS_IT_IS


class Talk:
    """What was said so far, in the form of the model's chat template.

    `name` is a run's folder, a model's folder or a hub id.  A model without a template gets the
    plain form of `tasks.chat_form`.  An answer is the likeliest one, of `max_new_tokens` at most.

    Raises ConfigError for a model that classifies, ModelError as `chat_form`.
    """

    def __init__(self, name: str | Path, max_new_tokens: int = 64, system: str = "") -> None:
        self._model, self._tokenizer = read_trained(name)
        if not self._model.can_generate():
            raise ConfigError(f"the model of {name} classifies; it generates no text")
        config = run_config(name)
        special = config is not None and config.data.special_tokens
        chat = chat_form(self._tokenizer, special_tokens=special)
        self._form = replace(AS_IT_IS, chat=chat)
        self._most = max_new_tokens
        self._start = [{"role": "system", "content": system}] if system.strip() else []
        self.messages = list(self._start)

    def say(self, text: str) -> str:
        """Return the model's answer; a long conversation loses its early turns."""
        self.messages.append({"role": "user", "content": text})
        (answer,) = generate(
            self._model,
            self._tokenizer,
            [self.messages],
            max_new_tokens=self._most,
            max_length=2**20,  # as many as the model has positions for
            form=self._form,
        )
        self.messages.append({"role": "assistant", "content": answer})
        return answer

    @property
    def begun(self) -> bool:
        """Whether anything was said."""
        return len(self.messages) > len(self._start)

    def begin_again(self) -> None:
        """Forget what was said."""
        self.messages = list(self._start)
