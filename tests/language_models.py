"""Language models for tests: random weights, a chat server, one that is told what to say."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = (
    "a",
    "photo",
    "shows",
    "one",
    "old",
    "big",
    "shiny",
    "thing",
    "on",
    "the",
    "grass",
    "water",
)


def write_language_model(folder: Path) -> Path:
    """Save a GPT-2 of one layer with random weights, whose tokens are `WORDS`."""
    known = {word: number for number, word in enumerate(["<unk>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(folder)
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(known), n_positions=256, n_embd=8, n_layer=1, n_head=1,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@contextmanager
def server(*answers: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A chat server that gives these answers in turn, the last for ever; a number is a code."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append({"path": self.path, "key": self.headers["Authorization"]})
            asked[-1] |= json.loads(body)
            answer = answers[min(len(asked), len(answers)) - 1]
            self.send_response(answer if isinstance(answer, int) else 200)
            if answer == 302:
                self.send_header("Location", "http://localhost:1/v1")
            self.end_headers()
            if isinstance(answer, dict):
                self.wfile.write(json.dumps(answer).encode())
            elif isinstance(answer, str):
                choice = {"message": {"role": "assistant", "content": answer}}
                self.wfile.write(json.dumps({"choices": [choice]}).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    http = HTTPServer(("localhost", 0), Handler)
    thread = Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://localhost:{http.server_port}/v1", asked
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


class Told:
    """A model that gives what it was told, and remembers what it was asked."""

    name = "told"

    def __init__(self, *answers: list[str], follows_instructions: bool = False) -> None:
        self.answers, self.follows_instructions = list(answers), follows_instructions
        self.asked: list[tuple[str, int, int]] = []

    def generate(self, prompt: str, *, count: int, seed: int, max_tokens: int) -> list[str]:
        self.asked.append((prompt, count, seed))
        return self.answers[min(len(self.asked), len(self.answers)) - 1]
