"""Language models that write what a method wants to know: one loaded here, or one behind a URL."""

import json
import time
from importlib import import_module
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch

_TRIES = 4
_LARGEST_ANSWER = 2**24
_TIMEOUT = 600.0


class LanguageModel(Protocol):
    """What a questionnaire asks.

    Attributes:
        name: for messages, and for the record of what was asked.
        follows_instructions: whether it answers a request; otherwise it goes on with a text.
    """

    name: str
    follows_instructions: bool

    def generate(self, prompt: str, *, count: int, seed: int, max_tokens: int) -> list[str]:
        """Return `count` answers to a prompt.

        Args:
            prompt: a request, or the beginning of a text.
            count: how many answers.
            seed: of the draws.
            max_tokens: most tokens of an answer.
        """
        ...


class LocalModel:
    """A causal language model of transformers, on a GPU where there is one.

    A tokenizer with a chat template is that of a model that follows instructions.

    Args:
        name: folder, or name on the Hugging Face hub.
        temperature: of the draws.

    Raises:
        ImportError: transformers is not installed.
        ValueError: transformers cannot load it.
    """

    def __init__(self, name: str, *, temperature: float = 1.0) -> None:
        try:
            library = import_module("transformers")
        except ModuleNotFoundError as error:
            raise ImportError(
                f"a language model needs the package {error.name!r}, which is not installed: "
                'pip install "czsl-sac[transformers]", or name a server by --url'
            ) from error
        try:
            self._tokenizer = library.AutoTokenizer.from_pretrained(name)
            model = library.AutoModelForCausalLM.from_pretrained(name)
        except Exception as error:  # whatever transformers meets in a foreign folder
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"model is {name!r} but must be a folder or a hub's name of a causal language "
                f"model that transformers can load ({reason}): correct it."
            ) from error
        self.name = name
        self.follows_instructions = bool(self._tokenizer.chat_template)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().to(self._device)
        self._temperature = temperature

    @torch.no_grad()
    def generate(self, prompt: str, *, count: int, seed: int, max_tokens: int) -> list[str]:
        """Return `count` answers to a prompt, the same for the same seed.

        Raises:
            ValueError: prompt and answer are longer than what the model takes.
        """
        text = prompt
        if self.follows_instructions:
            request = [{"role": "user", "content": prompt}]
            text = self._tokenizer.apply_chat_template(
                request, tokenize=False, add_generation_prompt=True
            )
        ids = self._tokenizer(
            text, return_tensors="pt", add_special_tokens=not self.follows_instructions
        ).input_ids.to(self._device)
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and ids.shape[1] + max_tokens > longest:
            raise ValueError(
                f"model is {self.name!r}, which takes {longest} tokens, but prompt and answer have "
                f"{ids.shape[1] + max_tokens}: take one with a longer context, or a shorter prompt."
            )
        own = {} if self.follows_instructions else {"no_repeat_ngram_size": 2}  # as PLID has it
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=self._temperature,
                num_return_sequences=count,
                max_new_tokens=max_tokens,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                **own,
            )
        answers: list[str] = self._tokenizer.batch_decode(
            made[:, ids.shape[1] :], skip_special_tokens=True
        )
        return answers


class _NoRedirect(HTTPRedirectHandler):
    """Follow no redirect: it would hand prompt and key to whom the user did not name."""

    def redirect_request(self, *arguments: Any) -> None:
        """Return nothing, which makes an error of the redirect."""


class ChatServer:
    """A server that answers chats in OpenAI's format, here or elsewhere.

    What a server cannot answer for the moment (it is busy or restarts) is asked again, some
    seconds later.

    Args:
        url: its address, up to `/v1`: `http://localhost:8000/v1`.
        name: what the server calls the model.
        key: sent as bearer token; empty sends none.
        temperature: of the draws.
        patience: seconds before the second try; each later try waits twice as long.

    Raises:
        ValueError: the address is none of HTTP.
    """

    follows_instructions = True

    def __init__(
        self,
        url: str,
        name: str,
        *,
        key: str = "",
        temperature: float = 1.0,
        patience: float = 2.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"url is {url!r} but must be the address of a server, such as "
                "http://localhost:8000/v1: correct it."
            )
        ending = "/chat/completions"
        self._url = url.rstrip("/").removesuffix(ending) + ending
        self.name = name
        self._key, self._temperature, self._patience = key, temperature, patience

    def generate(self, prompt: str, *, count: int, seed: int, max_tokens: int) -> list[str]:
        """Return `count` answers to a prompt; whether a seed counts is the server's to say.

        Each is a request of its own, with the next seed.

        Raises:
            ConnectionError: the server cannot be reached, or refuses.
            ValueError: what comes is no chat in OpenAI's format.
        """
        return [self._ask(prompt, seed + n, max_tokens) for n in range(count)]

    def _ask(self, prompt: str, seed: int, max_tokens: int) -> str:
        content = {
            "model": self.name,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._temperature,
            "seed": seed,
            "max_tokens": max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(self._url, json.dumps(content).encode(), headers)
        answer = self._send(request)
        try:
            text = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            text = None
        if not isinstance(text, str):
            shown = answer[:200].decode(errors="replace")
            raise ValueError(
                f"{self._url} answered {shown!r} but must answer as OpenAI's chat does: correct "
                "--url."
            )
        return text

    def _send(self, request: Request) -> bytes:
        opener = build_opener(_NoRedirect)
        for attempt in range(_TRIES):
            try:
                with opener.open(request, timeout=_TIMEOUT) as response:
                    found: bytes = response.read(_LARGEST_ANSWER)
                    return found
            except HTTPError as error:
                said = " ".join(error.read(400).decode(errors="replace").split())
                reason, passes = f"{error.code} {error.reason} {said}", error.code in _PASSING
            except (URLError, OSError) as error:
                reason, passes = str(getattr(error, "reason", error)), True
            if not passes:
                break
            if attempt + 1 < _TRIES:
                time.sleep(self._patience * 2**attempt)
        raise ConnectionError(
            f"{self._url} gave no answer ({reason.strip()}): see to the server, then run the "
            "command again, which goes on where it stopped."
        )


_PASSING = (408, 429, 500, 502, 503, 504)
"""Codes of a server that may answer a little later."""
