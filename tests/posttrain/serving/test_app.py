"""The server against the real openai client and curl: every stage answers as its own model does."""

import concurrent.futures
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from posttrain.pipeline import ModelRef
from tests.posttrain.serving.conftest import Server
from tests.posttrain.serving.runs import generated, random_lora, write_run

QUESTIONS = ["the quick brown fox", "over a lazy dog? " * 12, "seven green boats", "drift"]
TOKENS = 12


def asked(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="session")
def truth(server: Server) -> dict[tuple[str, str], str]:
    """By model and question: what `generate` says, alone."""
    refs = {"base": server.run.start, **{record.name: record.models["policy"] for record in server.run}}
    speaker = next(iter(server.bank)).speaker
    return {
        (name, question): speaker.tokenizer.decode(
            generated(ref, speaker.prompt({"messages": asked(question)}), TOKENS), skip_special_tokens=True
        )
        for name, ref in refs.items()
        for question in QUESTIONS
    }


def ask(client: openai.OpenAI, model: str, question: str, **more: Any) -> Any:
    return client.chat.completions.create(
        model=model, messages=asked(question), max_tokens=TOKENS, temperature=0, **more
    )


def test_the_stages_answer_differently(truth: dict[tuple[str, str], str]) -> None:
    assert len({truth[name, QUESTIONS[0]] for name in ("base", "sft", "dpo")}) == 3


def check_together(server: Server, truth: dict[tuple[str, str], str], clients: int, requests: int) -> None:
    """Every client asks other models other questions, all at once, half of them as streams."""
    client = server.client

    def work(number: int) -> int:
        draw, right = random.Random(number), 0
        for _ in range(requests):
            model, question = draw.choice(list(truth))
            if draw.random() < 0.5:
                said = ask(client, model, question).choices[0].message.content
            else:
                parts = ask(client, model, question, stream=True)
                said = "".join(part.choices[0].delta.content or "" for part in parts)
            assert said == truth[model, question], (model, question)
            right += 1
        return right

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        assert sum(pool.map(work, range(clients))) == clients * requests
    assert all(one.engine.load == (0, 0) for one in server.bank)


def test_clients_at_once_get_their_own_answers(server: Server, truth: dict[tuple[str, str], str]) -> None:
    check_together(server, truth, clients=12, requests=3)


def test_a_stream_goes_on_when_others_beside_it_end(server: Server) -> None:
    """Slots are given away in the middle, at the end and in front of those that go on."""
    lengths = [40, 2, 25, 1, 60, 3]
    speaker = next(iter(server.bank)).speaker
    prompt = speaker.prompt({"messages": asked(QUESTIONS[0])})
    ref = server.run.model
    whole = generated(ref, prompt, max(lengths))
    client = server.client

    def said(tokens: int) -> str:
        parts = client.chat.completions.create(
            model="dpo",
            messages=asked(QUESTIONS[0]),
            max_tokens=tokens,
            temperature=0,
            stream=True,
            timeout=60,
        )
        return "".join(part.choices[0].delta.content or "" for part in parts)

    for turn in range(len(lengths)):
        order = lengths[turn:] + lengths[:turn]
        with concurrent.futures.ThreadPoolExecutor(len(order)) as pool:
            found = list(pool.map(said, order))
        assert found == [speaker.tokenizer.decode(whole[:n], skip_special_tokens=True) for n in order]


@pytest.mark.slow
def test_64_clients_lose_nothing(server: Server, truth: dict[tuple[str, str], str]) -> None:
    check_together(server, truth, clients=64, requests=10)


def test_the_models_are_the_stages(server: Server) -> None:
    listed = {model.id: model for model in server.client.models.list()}
    assert list(listed) == ["base", "sft", "dpo"]
    assert listed["dpo"].model_dump()["fingerprint"] == server.run.model.fingerprint
    for alias in ("helper", "helper/dpo"):
        assert server.client.models.retrieve(alias).id == "dpo"


def test_an_unknown_model_is_404(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="There is no model 'gpt-4'"):
        ask(server.client, "gpt-4", "Hi")


def test_usage_and_ends_are_told(server: Server, truth: dict[tuple[str, str], str]) -> None:
    answer = ask(server.client, "sft", QUESTIONS[0])
    prompt = next(iter(server.bank)).speaker.prompt({"messages": asked(QUESTIONS[0])})
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), TOKENS)
    assert answer.choices[0].finish_reason == "length"
    *_, last = ask(server.client, "sft", QUESTIONS[0], stream=True, stream_options={"include_usage": True})
    assert last.usage == answer.usage


def test_a_stop_text_ends_the_answer_before_itself(server: Server, truth: dict[tuple[str, str], str]) -> None:
    said = truth["sft", QUESTIONS[0]]
    stop = said[8:14]
    answer = ask(server.client, "sft", QUESTIONS[0], stop=["never said", stop]).choices[0]
    assert (answer.message.content, answer.finish_reason) == (said[: said.index(stop)], "stop")
    parts = [part.choices[0] for part in ask(server.client, "sft", QUESTIONS[0], stop=stop, stream=True)]
    assert "".join(part.delta.content or "" for part in parts) == said[: said.index(stop)]
    assert parts[-1].finish_reason == "stop"


def test_a_seed_gives_the_same_answer_again(server: Server) -> None:
    def said(seed: int, **more: Any) -> str | None:
        return (
            server.client.chat.completions.create(
                model="dpo", messages=asked("Hi"), max_tokens=8, temperature=1.5, seed=seed, **more
            )
            .choices[0]
            .message.content
        )

    assert said(5) == said(5)
    assert len({said(seed) for seed in range(4)}) > 1
    assert (
        said(5, top_p=0)
        == ask(server.client, "dpo", "Hi").choices[0].message.content[: len(said(5, top_p=0) or "")]
    )


def test_a_completion_goes_on_with_a_text_or_tokens(server: Server) -> None:
    speaker = next(iter(server.bank)).speaker
    ids = speaker.plain("Once upon")
    want = speaker.tokenizer.decode(generated(server.run.model, ids, 6))
    given: list[Any] = ["Once upon", ["Once upon"], ids, [ids]]
    for prompt in given:
        found = server.client.completions.create(model="dpo", prompt=prompt, max_tokens=6, temperature=0)
        assert found.choices[0].text == want
    parts = server.client.completions.create(
        model="dpo", prompt=ids, max_tokens=6, temperature=0, stream=True
    )
    assert "".join(part.choices[0].text for part in parts) == want


def test_curl_is_answered(server: Server, truth: dict[tuple[str, str], str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    body = {"model": "dpo", "messages": asked(QUESTIONS[2]), "max_tokens": TOKENS, "temperature": 0}
    command = ["curl", "-sS", f"{server.address}/v1/chat/completions", "-d", json.dumps(body)]
    headers = ["-H", "content-type: application/json", "-H", f"authorization: Bearer {server.token}"]
    answer = json.loads(subprocess.run([*command, *headers], capture_output=True, check=True).stdout)
    assert answer["choices"][0]["message"]["content"] == truth["dpo", QUESTIONS[2]]
    refused = subprocess.run([*command, *headers[:2]], capture_output=True, check=True).stdout
    assert json.loads(refused)["error"]["code"] == "invalid_api_key"


def until(holds: Callable[[], bool]) -> bool:
    """Whether it comes true within half a minute."""
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def busy(server: Server) -> int:
    return sum(next(iter(server.bank)).engine.load)


@pytest.mark.parametrize("reads", [0, 3])
def test_a_stream_that_is_dropped_frees_its_slot(server: Server, reads: int) -> None:
    stream = server.client.chat.completions.create(
        model="sft", messages=asked("Hi"), max_tokens=1900, temperature=1, stream=True
    )
    for _, _ in zip(range(reads), stream, strict=False):
        pass
    assert until(lambda: busy(server) == 1)
    stream.close()
    assert until(lambda: busy(server) == 0)


@pytest.mark.slow
def test_200_streams_that_are_dropped_leave_nothing(
    server: Server, truth: dict[tuple[str, str], str]
) -> None:
    """Sixteen at a time, after none to five of their words."""

    def drop(number: int) -> None:
        stream = server.client.chat.completions.create(
            model="sft", messages=asked("Hi"), max_tokens=200, temperature=1, stream=True
        )
        for _, _ in zip(range(random.Random(number).randrange(6)), stream, strict=False):
            pass
        stream.close()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(drop, range(200)))
    assert until(lambda: all(one.engine.load == (0, 0) for one in server.bank))
    assert ask(server.client, "dpo", QUESTIONS[0]).choices[0].message.content == truth["dpo", QUESTIONS[0]]


def test_a_client_that_hangs_up_frees_its_slot(server: Server) -> None:
    client = server.client.with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="sft", messages=asked("Hi"), max_tokens=1900, temperature=1)
    assert until(lambda: busy(server) == 0)


def test_adapters_come_and_go_while_it_serves(server: Server, truth: dict[tuple[str, str], str]) -> None:
    extra = write_run(server.folder / "extra", {"style": random_lora(9, 3)})
    want = generated(extra.model, next(iter(server.bank)).speaker.prompt({"messages": asked("Hi")}), TOKENS)
    done = False

    def keep_asking() -> int:
        count = 0
        while not done:
            assert (
                ask(server.client, "dpo", QUESTIONS[0]).choices[0].message.content
                == truth["dpo", QUESTIONS[0]]
            )
            count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(keep_asking) for _ in range(2)]
        for _ in range(3):
            loaded = server.post(
                "/v1/load_lora_adapter", {"lora_name": "new", "lora_path": str(extra.folder)}
            )
            assert loaded.status_code == 200, loaded.text
            answer = ask(server.client, "new", "Hi").choices[0].message.content
            assert answer == next(iter(server.bank)).speaker.tokenizer.decode(want)
            running = server.client.chat.completions.create(
                model="new", messages=asked("Hi"), max_tokens=40, temperature=0, stream=True
            )
            assert server.post("/v1/unload_lora_adapter", {"lora_name": "new"}).status_code == 200
            text = "".join(part.choices[0].delta.content or "" for part in running)
            assert text.startswith(answer)  # it was given to its end, by the adapter that was asked
            with pytest.raises(openai.NotFoundError):
                ask(server.client, "new", "Hi")
        done = True
        assert sum(one.result() for one in asking) > 0
    assert server.post("/v1/unload_lora_adapter", {"lora_name": "new"}).status_code == 404


def test_a_stage_or_its_adapter_can_be_loaded_by_path(server: Server) -> None:
    stage = server.run["sft"].folder
    for number, path in enumerate((stage, stage / "adapter")):
        name = f"again{number}"
        assert (
            server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)}).status_code
            == 200
        )
        assert (
            server.client.models.retrieve(name).model_dump()["fingerprint"]
            == server.run["sft"].models["policy"].fingerprint
        )
        assert server.post("/v1/unload_lora_adapter", {"lora_name": name}).status_code == 200
    assert ask(server.client, "sft", "Hi").choices  # the stage is still there


def test_only_verified_adapters_of_allowed_folders_are_loaded(server: Server, tmp_path: Path) -> None:
    outside = write_run(tmp_path / "outside", {"sft": random_lora(3, 2)})
    link = server.folder / "link"
    link.symlink_to(outside.folder)
    changed = write_run(server.folder / "changed", {"sft": random_lora(4, 2)})
    weights = changed["sft"].folder / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    paths = [
        outside.folder, link, server.folder / ".." / outside.folder.name, "/etc/passwd", "relative", "", "a\0b",
        server.folder, server.folder / "nothing", changed.folder,
    ]  # fmt: skip
    for path in paths:
        answer = server.post("/v1/load_lora_adapter", {"lora_name": "bad", "lora_path": str(path)})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora_path"), path
    for name in ("", "../x", "a/b", "a" * 65, "-x", "ä", "sft"):
        answer = server.post(
            "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(server.run.folder)}
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora_name"), name
    assert server.post("/v1/unload_lora_adapter", {"lora_name": "base"}).status_code == 400


def test_an_adapter_of_another_base_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_run(server.folder / "other", {"sft": random_lora(5, 2)})
    changed = ModelRef(other.start.base, "0" * 64)
    monkeypatch.setattr("posttrain.serving.app.find_adapter", lambda path, folders: changed)
    answer = server.post("/v1/load_lora_adapter", {"lora_name": "other", "lora_path": str(other.folder)})
    assert answer.status_code == 400
    assert "another model than the base" in answer.json()["error"]["message"]
