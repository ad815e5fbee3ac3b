"""Answers from vLLM are the policy's own, as it is at each rollout; against a stand-in, for vLLM needs a GPU."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain import GRPO, IA3, PPO, SFT, VLLM, AdaLoRA, Full, LoRA, Pipeline, QLoRA
from posttrain.errors import SamplerError, SettingError, StrategyError
from posttrain.stages.online.sampling import Answer
from tests.stages.online.vllm_standin import LLM, Model, Server, modules, slowly
from tests.stages.words import lengths, rivers

Rows = list[dict[str, Any]]
SHORT: dict[str, Any] = {
    "max_length": 32, "max_new_tokens": 8, "batch_size": 8, "max_steps": 4, "learning_rate": 3e-3, "reward": lengths,
}  # fmt: skip
lora = LoRA(r=8)


@pytest.fixture
def server(words_model: Path) -> Iterator[Server]:
    with Server(Model(words_model)) as running:
        yield running


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LLM]]:
    """The stand-in in the place of vLLM; the engines that were made."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    LLM.made.clear()
    yield LLM.made
    LLM.made.clear()


def adapter_of(run: Any) -> bytes:
    return bytes(
        (run[next(reversed(list(run))).name].folder / "adapter" / "adapter_model.safetensors").read_bytes()
    )


@pytest.fixture
def plain(words: Callable[..., Pipeline], prompts: Rows) -> bytes:
    """What PPO trains with the answers of transformers."""
    return adapter_of(words([PPO(lora, data=prompts, **SHORT)], name="plain").run())


def test_a_server_answers_as_the_policy_is_at_each_rollout(
    words: Callable[..., Pipeline], prompts: Rows, server: Server, plain: bytes
) -> None:
    """The stand-in draws as transformers does, so that one stale adapter would change the bits of the result."""
    run = words([PPO(lora, data=prompts, sampler=VLLM(server.url), **SHORT)]).run()
    assert adapter_of(run) == plain
    stage = run["ppo"]
    assert stage.proofs["copies_of_the_base"] == 1.0
    assert stage.proofs["sampler_difference_nats"] < 1e-4
    assert all(line["sampler_difference"] < 1e-4 for line in stage.history)
    assert len(set(server.loaded)) == len(server.loaded) == 5  # at the start, and after each of 4 updates
    assert list(server.model.adapters) == server.loaded[-1:]  # those before it were dropped
    assert {body["return_token_ids"] for body in server.asked} == {True}
    seeds = [body["seed"] for body in server.asked if body["model"] == server.loaded[1]]
    assert len(set(seeds)) == len(seeds) == 8


def test_an_engine_in_the_process_answers_the_same(
    words: Callable[..., Pipeline], prompts: Rows, engine: list[LLM], plain: bytes
) -> None:
    pipeline = words([PPO(lora, data=prompts, sampler=VLLM(), **SHORT)])
    (plan,) = pipeline.plan()
    assert plan is not None and "vLLM takes 30% of the GPU's memory beside this" in plan.notes[-1]
    run = pipeline.run()
    assert adapter_of(run) == plain
    assert run["ppo"].proofs["copies_of_the_base"] == 2.0
    assert engine[0].used == [1, 2, 3, 4, 5]


def test_the_other_online_stages_take_it_too(
    words: Callable[..., Pipeline], prompts: Rows, server: Server
) -> None:
    settings = SHORT | {"num_generations": 4}
    plain = words([GRPO(lora, data=prompts, **settings)], name="plain").run()
    run = words([GRPO(lora, data=prompts, sampler=VLLM(server.url), **settings)]).run()
    assert adapter_of(run) == adapter_of(plain)
    assert run["grpo"].proofs["sampler_difference_nats"] < 1e-4


def chain(prompts: Rows, handover: Any, **settings: Any) -> list[Any]:
    chats = [{"prompt": row["prompt"], "completion": "river river moon"} for row in prompts]
    sft = SFT(lora, data=chats, max_steps=6, learning_rate=3e-3, batch_size=8, max_length=32)
    return [sft, PPO(lora, data=prompts, handover=handover, **settings)]


@pytest.mark.parametrize("handover", ["merge", "continue"])
def test_it_stands_on_the_merged_base(
    words: Callable[..., Pipeline], prompts: Rows, engine: list[LLM], handover: str
) -> None:
    """With "merge" SFT's adapter is in the engine's base, with "continue" it is the policy's own first state."""
    plain = words(chain(prompts, handover, **SHORT), name="plain").run()
    run = words(chain(prompts, handover, sampler=VLLM(), **SHORT)).run()
    assert adapter_of(run) == adapter_of(plain)
    merged = [path.name for path in run["ppo"].folder.glob("base-*")]
    assert len(merged) == (handover == "merge")
    assert [engine[0].model.base.name] == merged or handover == "continue"


def test_a_server_is_told_to_serve_the_merged_base(
    words: Callable[..., Pipeline], prompts: Rows, server: Server
) -> None:
    """The merged base exists only when the stage comes; the run stops with its folder, and goes on from there."""
    stages = chain(prompts, "merge", sampler=VLLM(server.url), **SHORT)
    pipeline = words(stages)
    with pytest.raises(
        SamplerError, match=f"serves {server.model.base}, and the policy stands on .*base-"
    ) as caught:
        pipeline.run()
    (folder,) = pipeline.run_dir.rglob("base-*")
    assert f"vllm serve {folder} --enable-lora --max-lora-rank 8 --max-model-len 32" in str(caught.value)
    server.model = Model(folder)
    assert pipeline.run()["ppo"].metrics["steps"] == 4


def test_a_server_that_dies_loses_nothing(
    words: Callable[..., Pipeline], prompts: Rows, server: Server
) -> None:
    """It dies in the fourth rollout; checkpoints come every second step, and yet the third update is kept."""
    settings = SHORT | {"max_steps": 20, "batch_size": 2, "max_new_tokens": 3}
    plain = adapter_of(words([PPO(lora, data=prompts, **settings)], name="plain").run())

    def dies(reply: dict[str, Any]) -> Any:
        return (
            {"status": 500, "error": {"message": "the engine\nis dead"}} if len(server.loaded) > 3 else reply
        )

    server.faults["/v1/completions"] = dies
    pipeline = words([PPO(lora, data=prompts, sampler=VLLM(server.url), **settings)])
    with pytest.raises(SamplerError, match=r"refused /v1/completions \(500: the engine is dead\)"):
        pipeline.run()
    assert max(int(path.name.split("-")[-1]) for path in pipeline.run_dir.rglob("checkpoints/*")) == 3
    del server.faults["/v1/completions"]
    server.model = Model(server.model.base)  # started anew: it knows no adapter
    run = pipeline.run()
    assert adapter_of(run) == plain
    assert len(run["ppo"].history) == 20


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("another base", {"faults": {"/v1/models": lambda _: {"data": [{"id": "x", "root": "Qwen/Qwen3-8B"}]}}},
     "serves Qwen/Qwen3-8B, and the policy stands on .*; stop it and start: VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve"),
    ("too short", {"max_model_len": 16}, "has room for 16 tokens of prompt and answer, and max_length is 32"),
    ("adapters are fixed", {"updates": False}, "lets no adapter be loaded while it runs; it must have been started as"),
    ("too little room for the rank", {"model": 4}, r"refused /v1/load_lora_adapter \(400: LoRA rank 8 is greater than max_lora_rank 4.\)"),
    ("a key", {"key": "secret"}, "asks for a key; set VLLM_API_KEY"),
    ("no vLLM", {"faults": {"/v1/models": lambda _: "<html>hello</html>"}}, "does not speak as vLLM does"),
    ("other JSON", {"faults": {"/v1/models": lambda _: {"models": []}}}, "does not speak as vLLM does"),
    ("an old vLLM", {"faults": {"/v1/completions": lambda reply: {"choices": [reply["choices"][0] | {"token_ids": None}]}}},
     "answers without token ids; it must be vLLM 0.10.2 or newer"),
    ("a cut answer", {"faults": {"/v1/completions": lambda reply: {"choices": [reply["choices"][0] | {"token_ids": [7, 8]}]}}},
     "ended an answer after 2 of 8 tokens for another reason"),
    ("a stop token inside", {"faults": {"/v1/completions": lambda reply: {"choices": [reply["choices"][0] | {"token_ids": [7, 1, 8, 8, 8, 8, 8, 8]}]}}},
     "ended an answer after 8 of 8 tokens for another reason"),
    ("slow", {"faults": {"/v1/models": slowly(1.0)}}, "gave no answer to /v1/models within 0.3 s"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "text"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_a_server_that_is_not_what_it_must_be(
    words: Callable[..., Pipeline], prompts: Rows, server: Server, changes: dict[str, Any], text: str
) -> None:
    for name, value in changes.items():
        setattr(server, name, Model(server.model.base, value) if name == "model" else value)
    timeout_s = 0.3 if "within" in text else 60.0
    with pytest.raises(SamplerError, match=text) as caught:
        words([PPO(lora, data=prompts, sampler=VLLM(server.url, timeout_s=timeout_s), **SHORT)]).run()
    assert server.url in str(caught.value) or "ended an answer" in text
    assert "\n" not in str(caught.value)


def test_no_server(words: Callable[..., Pipeline], prompts: Rows) -> None:
    with pytest.raises(
        SamplerError, match=r"at http://127.0.0.1:9 cannot be reached \(ConnectionRefusedError\); start it as"
    ):
        words([PPO(lora, data=prompts, sampler=VLLM("http://127.0.0.1:9/v1"), **SHORT)]).run()


def test_the_key_comes_from_the_environment(
    words: Callable[..., Pipeline], prompts: Rows, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "a-secret"
    monkeypatch.setenv("VLLM_API_KEY", "a-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody but the server is spoken to
    run = words([PPO(lora, data=prompts, sampler=VLLM(server.url), **(SHORT | {"max_steps": 1}))]).run()
    kept = [path for path in run.folder.rglob("*") if path.is_file() and b"a-secret" in path.read_bytes()]
    assert server.headers and not kept


def test_an_engine_that_keeps_to_its_first_adapter_is_noticed(
    words: Callable[..., Pipeline], prompts: Rows, server: Server
) -> None:
    first: list[Any] = []
    real = server.model.answer

    def stale(key: Any, *asked: Any) -> Any:
        first.append(server.model.adapters[key])
        server.model.adapters[key] = first[0]
        return real(key, *asked)

    server.model.answer = stale  # type: ignore[method-assign]
    settings = SHORT | {"learning_rate": 3e-2}
    with pytest.raises(SamplerError, match="it answers from another model, or without the policy's adapter"):
        words([PPO(lora, data=prompts, sampler=VLLM(server.url), **settings)]).run()


def test_the_losses_use_none_of_its_log_probabilities(
    words: Callable[..., Pipeline], prompts: Rows, server: Server, plain: bytes
) -> None:
    def rounded(reply: dict[str, Any]) -> Any:
        found = reply["choices"][0]["logprobs"]["token_logprobs"]
        reply["choices"][0]["logprobs"]["token_logprobs"] = [value + 0.05 for value in found]
        return reply

    server.faults["/v1/completions"] = rounded
    run = words([PPO(lora, data=prompts, sampler=VLLM(server.url), **SHORT)]).run()
    assert adapter_of(run) == plain
    assert run["ppo"].history[0]["sampler_difference"] == pytest.approx(0.05, abs=1e-3)


REFUSED: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("dora", lambda: LoRA(variant="dora"), StrategyError, r"a policy of LoRA\(r=16, variant='dora'\): it reads the matrices A and B"),
    ("modules_to_save", lambda: LoRA(modules_to_save=["norm"]), StrategyError, "modules_to_save"),
    ("pissa", lambda: LoRA(init="pissa"), StrategyError, "starts that change the base"),
    ("rank", lambda: LoRA(r=1024), StrategyError, "has the rank 1024, and vLLM takes 512 at most; lower r"),
    ("qlora", QLoRA, StrategyError, "plain LoRA"),
    ("adalora", AdaLoRA, StrategyError, "plain LoRA"),
    ("ia3", IA3, StrategyError, "plain LoRA"),
    ("full", Full, StrategyError, "plain LoRA"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "kind", "text"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_a_policy_that_vllm_cannot_serve_is_refused_when_the_pipeline_is_built(
    prompts: Rows, strategy: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        Pipeline([PPO(strategy(), data=prompts, reward=rivers, sampler=VLLM("http://localhost:8000"))])


def test_vllm_must_be_there_and_alone(
    prompts: Rows, engine: list[LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = PPO(lora, data=prompts, reward=rivers, sampler=VLLM())
    Pipeline([stage])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="is for one process, and there are 2; start a server"):
        Pipeline([stage])
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SettingError, match=r"it is not installed; run pip install vllm, or give the address"):
        Pipeline([stage])


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://", "http://x/y", "http://x:99999", 8000, "http://x?a=b"]
)
def test_an_address_that_is_none(url: Any) -> None:
    with pytest.raises(SettingError, match="url must be the address of a server"):
        VLLM(url)


def test_settings_that_are_none(prompts: Rows) -> None:
    with pytest.raises(SettingError, match="put no key into the address") as caught:
        VLLM("http://user:pass@x")
    assert "pass@" not in str(caught.value)
    with pytest.raises(SettingError, match="gpu_memory must be a number above 0 and below 1"):
        VLLM(gpu_memory=1.5)
    with pytest.raises(SettingError, match=r"sampler must be 'transformers', VLLM\(\)"):
        PPO(lora, data=prompts, sampler="vllm")  # type: ignore[arg-type]


def test_where_it_runs_does_not_make_another_stage(prompts: Rows) -> None:
    def identity(sampler: Any) -> Any:
        return PPO(lora, data=prompts, reward=rivers, sampler=sampler).identity()

    assert identity(VLLM("http://a:1")) == identity(VLLM("http://b:2", timeout_s=5.0)) == identity(VLLM())
    assert identity(VLLM()) != identity("transformers")


def test_an_answer_without_log_probabilities_is_not_compared() -> None:
    import torch

    from posttrain.stages.online.rollouts import sampler_difference

    assert sampler_difference([Answer((1,), True)], torch.zeros(1, 1)) is None
    two = [Answer((5, 1), True, (-1.0, -2.0)), Answer((1,), True, (-3.0,))]
    ours = torch.tensor([[-1.1, -2.0], [-3.2, 0.0]])
    assert sampler_difference(two, ours) == pytest.approx(0.1)
    with pytest.raises(SamplerError, match=r"1\.10 nats a token away"):
        sampler_difference(two, ours - 1.0)


def test_the_first_of_several_processes_writes_and_loads(words_model: Path, tmp_path: Path) -> None:
    """The others answer with its adapter, on the server that all of them share."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from posttrain.pipeline import Ranks
    from posttrain.stages.online.vllm.engine import Adapter, Limits
    from posttrain.stages.online.vllm.sampler import VLLMSampler
    from posttrain.stages.online.vllm.server import Server as Client

    class Second(Ranks):
        def share(self, value: Any) -> Any:
            assert value is None
            return written

    policy = get_peft_model(
        AutoModelForCausalLM.from_pretrained(words_model), LoraConfig(r=4, target_modules="all-linear")
    )
    limits = Limits((1,), 4, 1.0)
    with Server(Model(words_model)) as server:
        client = Client(server.url, words_model, rank=4, max_length=32, timeout_s=60.0)
        first = VLLMSampler(client, policy, tmp_path / "sampler", limits, Ranks())
        answers = first.sample([[2, 7, 3]] * 3, [1, 2, 3])
        (name,) = server.loaded
        written = Adapter(name, tmp_path / "sampler" / name)
        second = VLLMSampler(client, policy, tmp_path / "sampler", limits, Second(rank=1, size=2))
        assert second.sample([[2, 7, 3]] * 3, [1, 2, 3]) == answers
        assert second.sample([], []) == []
        assert server.loaded == [name]
        assert [path.name for path in (tmp_path / "sampler").iterdir()] == [name]
