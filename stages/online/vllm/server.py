"""A running `vllm serve`, over HTTP.

The addresses are vLLM's: /v1/models, /v1/completions with `return_token_ids`, and, where the server was started with
VLLM_ALLOW_RUNTIME_LORA_UPDATING, /v1/load_lora_adapter and /v1/unload_lora_adapter.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from posttrain.errors import SamplerError

from ....pipeline import ModelRef
from ....pipeline.base_models import Base
from .engine import Adapter, Limits, Said
from .settings import RANKS

_AT_ONCE = 64  # requests that wait for the server; it makes its own batches of them


class Server:
    """Speaks to the one address that the user gave: no proxy, no redirect."""

    copies_of_the_base = 0

    def __init__(self, url: str, base: Path, *, rank: int, max_length: int, timeout_s: float) -> None:
        """base: the folder of the model that it must serve."""
        self._parts, self._timeout_s = urlsplit(url), timeout_s
        self._url = f"{self._parts.scheme}://{self._parts.netloc}"
        self._base, self._max_length = base, max_length
        room = next(room for room in RANKS if room >= rank)
        self._command = (
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve {base} --enable-lora --max-lora-rank {room} "
            f"--max-model-len {max_length} --generation-config vllm"
        )

    def check(self, source: ModelRef) -> None:
        """Raises SamplerError unless it serves this very model, with room for prompt and answer.

        source: what is in the folder.
        """
        try:
            cards = self._ask("GET", "/v1/models")["data"]
            served = next(card for card in cards if card.get("parent") is None)  # the others are adapters
            root = str(served["root"])
        except (KeyError, TypeError, AttributeError, StopIteration) as error:
            raise self._no_vllm() from error
        same_name = not source.adapters and root == source.base
        if not same_name and not _same_weights(Path(root), self._base):
            raise SamplerError(
                f"The vLLM server at {self._url} serves {root}, and the policy stands on {self._base}; stop it and start: "
                f"{self._command}"
            )
        if (length := served.get("max_model_len")) is not None and length < self._max_length:
            raise SamplerError(
                f"The vLLM server at {self._url} has room for {length} tokens of prompt and answer, and max_length is "
                f"{self._max_length}; stop it and start: {self._command}"
            )

    def load(self, adapter: Adapter) -> None:
        self.unload(adapter)  # of a run that was killed
        self._ask(
            "POST", "/v1/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
        )

    def unload(self, adapter: Adapter) -> None:
        """A server that was started anew does not know it any more, which is as good."""
        self._send("POST", "/v1/unload_lora_adapter", {"lora_name": adapter.name})

    def answer(
        self, adapter: Adapter, prompts: Sequence[Sequence[int]], seeds: Sequence[int], limits: Limits
    ) -> list[Said]:
        def one(prompt: Sequence[int], seed: int) -> Said:
            wanted = {"model": adapter.name, "prompt": list(prompt), "return_token_ids": True}
            return self._said(self._ask("POST", "/v1/completions", wanted | limits.request(seed)))

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            waiting = [threads.submit(one, *asked) for asked in zip(prompts, seeds, strict=True)]
            try:
                return [answer.result() for answer in waiting]
            finally:
                threads.shutdown(cancel_futures=True)  # after the first failure nobody needs the others

    def _said(self, reply: Mapping[str, Any]) -> Said:
        try:
            (choice,) = reply["choices"]
            if choice.get("token_ids") is None:
                raise SamplerError(
                    f"The server at {self._url} answers without token ids; it must be vLLM 0.10.2 or newer."
                )
            found = (choice.get("logprobs") or {}).get("token_logprobs") or ()
            return Said(tuple(choice["token_ids"]), tuple(found), choice.get("finish_reason"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._no_vllm() from error

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The reply's JSON, None where it is a sentence. Raises SamplerError for anything but success."""
        status, text = self._send(method, path, body)
        if status == 200:
            try:
                return json.loads(text) if text.startswith("{") else None
            except ValueError as error:
                raise self._no_vllm() from error
        if status in (404, 405) and path.endswith("_lora_adapter"):
            what = "lets no adapter be loaded while it runs"
        elif status in (401, 403):
            raise SamplerError(f"The vLLM server at {self._url} asks for a key; set VLLM_API_KEY to it.")
        else:
            what = f"refused {path} ({status}: {_reason(text)})"
        raise SamplerError(
            f"The vLLM server at {self._url} {what}; it must have been started as: {self._command}"
        )

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, str]:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        assert self._parts.hostname is not None
        connection = kind(self._parts.hostname, self._parts.port, timeout=self._timeout_s)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            return reply.status, reply.read().decode(errors="replace")
        except TimeoutError as error:
            raise SamplerError(
                f"The vLLM server at {self._url} gave no answer to {path} within {self._timeout_s:g} s; look at its log, or "
                "raise VLLM(timeout_s=...); then run the same command again, which goes on where it was."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise SamplerError(
                f"The vLLM server at {self._url} cannot be reached ({type(error).__name__}); start it as follows and run the "
                f"same command again, which goes on where it was: {self._command}"
            ) from error
        finally:
            connection.close()

    def _no_vllm(self) -> SamplerError:
        return SamplerError(f"What answers at {self._url} does not speak as vLLM does; look at the address.")


def _same_weights(served: Path, base: Path) -> bool:
    """Whether two folders on this machine hold the same model."""
    if not (served / "config.json").is_file():
        return False
    return Base(str(served), served).fingerprint == Base(str(base), base).fingerprint


def _reason(text: str) -> str:
    """What a server says about its error, in one line."""
    try:
        error = json.loads(text)
        text = (error.get("error") or error)["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return " ".join(str(text).split())[:300]
