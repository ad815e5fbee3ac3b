"""A stand-in for vLLM: its names and its protocol as this project uses them, and a tiny real model behind them.

It loads the adapter folder that it is told to, keeps it under its name or number as vLLM does, and samples as
`TransformersSampler` does, so that a run through it can be compared bit for bit with one without it.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from posttrain.stages.online.sampling import TransformersSampler

NEUTRAL = {
    "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "ignore_eos": True,
}  # fmt: skip


class Model:
    """A base and the adapters that were loaded onto it."""

    def __init__(self, base: Path, max_lora_rank: int = 16) -> None:
        self.base, self._room = base, max_lora_rank
        self.adapters: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def load(self, key: Any, folder: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["peft_type"] == "LORA" and not config["use_dora"] and not config["modules_to_save"]
        if config["r"] > self._room:
            raise ValueError(f"LoRA rank {config['r']} is greater than max_lora_rank {self._room}.")
        with self._lock, torch.random.fork_rng(devices=[]):  # another process would draw from its own
            model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
            self.adapters[key] = PeftModel.from_pretrained(model, folder).eval()

    def answer(
        self, key: Any, prompt: Sequence[int], wanted: Mapping[str, Any]
    ) -> tuple[list[int], list[float]]:
        assert {name: wanted[name] for name in NEUTRAL} == NEUTRAL
        with self._lock, torch.no_grad():
            model = self.adapters[key]
            sampler = TransformersSampler(
                model, 0, tuple(wanted["stop_token_ids"]), wanted["max_tokens"], wanted["temperature"]
            )
            ids = list(sampler.sample([prompt], [wanted["seed"]])[0].ids)
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
            found = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]
            return ids, found.tolist()


@dataclass
class Server:
    """`vllm serve` on a free port of this machine; `faults` change what it does."""

    model: Model
    max_model_len: int = 64
    key: str | None = None
    updates: bool = True  # VLLM_ALLOW_RUNTIME_LORA_UPDATING
    faults: dict[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)  # path -> changed reply
    loaded: list[str] = field(default_factory=list)  # names, in their order
    asked: list[dict[str, Any]] = field(default_factory=list)  # bodies of completions
    headers: list[Mapping[str, str]] = field(default_factory=list)

    def __enter__(self) -> "Server":
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            base = {
                "id": "base",
                "root": str(self.model.base),
                "parent": None,
                "max_model_len": self.max_model_len,
            }
            return 200, {"data": [base, *({"id": name, "parent": "base"} for name in self.model.adapters)]}
        if path == "/v1/completions":
            return self._completion(body)
        if not self.updates:
            return 404, {"detail": "Not Found"}
        name = body["lora_name"]
        if path == "/v1/unload_lora_adapter":
            found = self.model.adapters.pop(name, None) is not None
            return (
                (200, f"Success: LoRA adapter '{name}' removed successfully.")
                if found
                else _error(404, "cannot be found")
            )
        if name in self.model.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        try:
            self.model.load(name, Path(body["lora_path"]))
        except ValueError as error:
            return _error(400, str(error))
        self.loaded.append(name)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _completion(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(body)
        if body["model"] not in self.model.adapters:
            return _error(404, f"The model `{body['model']}` does not exist.")
        ids, found = self.model.answer(body["model"], body["prompt"], body)
        stopped = ids[-1] in body["stop_token_ids"]
        choice = {
            "index": 0, "text": "", "token_ids": ids, "logprobs": {"token_logprobs": found},
            "finish_reason": "stop" if stopped else "length",
        }  # fmt: skip
        return 200, {"choices": [choice]}

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: dict[str, Any]) -> None:
                server.headers.append(dict(self.headers))
                if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                    status, reply = 401, {"error": "Unauthorized"}
                else:
                    status, reply = server.reply(self.path, body)
                if self.path in server.faults:
                    reply = server.faults[self.path](reply if isinstance(reply, dict) else {})
                    status = reply.pop("status", status) if isinstance(reply, dict) else status
                content = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                return

        return Handler


def _error(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "BadRequestError", "code": status}}


def slowly(seconds: float) -> Callable[[dict[str, Any]], Any]:
    """A fault: the reply comes late."""

    def wait(reply: dict[str, Any]) -> Any:
        time.sleep(seconds)
        return reply

    return wait


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LLM:
    """The class of vLLM; adapters are kept by their number alone, as there."""

    made: list["LLM"] = []  # noqa: RUF012

    def __init__(
        self, *, model: str, dtype: str, max_model_len: int, gpu_memory_utilization: float, enable_lora: bool,
        max_loras: int, max_lora_rank: int, generation_config: str, trust_remote_code: bool, load_format: str, seed: int,
    ) -> None:  # fmt: skip
        assert enable_lora and generation_config == "vllm" and not trust_remote_code and dtype == "float32"
        self.model = Model(Path(model), max_lora_rank)
        self.used: list[int] = []
        self.llm_engine = SimpleNamespace(remove_lora=lambda number: self.model.adapters.pop(number))
        self.made.append(self)

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list["SamplingParams"], *,
        lora_request: LoRARequest, use_tqdm: bool,
    ) -> list[Any]:  # fmt: skip
        number = lora_request.lora_int_id
        if number not in self.model.adapters:
            self.model.load(number, Path(lora_request.lora_path))
            self.used.append(number)
        outputs = []
        for prompt, wanted in zip(prompts, sampling_params, strict=True):
            ids, found = self.model.answer(number, prompt["prompt_token_ids"], vars(wanted))
            steps = [{token: SimpleNamespace(logprob=value)} for token, value in zip(ids, found, strict=True)]
            reason = "stop" if ids[-1] in wanted.stop_token_ids else "length"
            outputs.append(
                SimpleNamespace(
                    outputs=[SimpleNamespace(token_ids=ids, logprobs=steps, finish_reason=reason)]
                )
            )
        return outputs


class SamplingParams(SimpleNamespace):
    stop_token_ids: list[int]


def modules() -> dict[str, ModuleType]:
    """What stands in sys.modules for vLLM."""
    vllm, lora, request = (ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    vllm.__spec__ = ModuleSpec("vllm", None)
    vllm.LLM, vllm.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest  # type: ignore[attr-defined]
    return {"vllm": vllm, "vllm.lora": lora, "vllm.lora.request": request}
