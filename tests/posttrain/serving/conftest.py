"""One server for the tests of what is answered: a run of two stages on the tiny random model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from posttrain.pipeline import Run
from posttrain.serving.app import make_app
from posttrain.serving.bank import Bank, load_runs
from posttrain.serving.engine import Limits
from posttrain.web import Guard, new_token
from tests.posttrain.serving.runs import random_lora, write_run
from tests.posttrain.web.running import running


@dataclass(frozen=True)
class Server:
    address: str
    token: str
    bank: Bank
    run: Run
    folder: Path  # adapters may be loaded from it

    @property
    def client(self) -> openai.OpenAI:
        http = httpx.Client(verify=False, trust_env=False, timeout=120)
        return openai.OpenAI(
            base_url=f"{self.address}/v1", api_key=self.token, max_retries=0, http_client=http
        )

    def post(self, path: str, body: object) -> httpx.Response:
        return self.client._client.post(
            self.address + path, json=body, headers={"authorization": f"Bearer {self.token}"}
        )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    run = write_run(folder / "helper", {"sft": random_lora(1, 4), "dpo": random_lora(2, 6)})
    token, bank = new_token(), Bank(Limits(rows=8, waiting=128, cache_tokens=8192))
    load_runs(bank, [run], print)
    try:
        with running(Guard(make_app(bank, [folder]), token=token)) as address:
            yield Server(address, token, bank, run, folder)
    finally:
        bank.close()
