"""LoRA: a low-rank update beside frozen linear layers, its variants and its starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from posttrain.errors import SettingError, StrategyError

from ...pipeline.settings import check_choice, check_number, refuse
from .depth import Depths
from .presets import settings_of
from .strategy import Capabilities, Schedule, StartRows, StepHooks, Task
from .tuner import HEADS, TargetModules, Tuner, linear_layers, read_layers, read_names, read_targets

_REWRITES_BASE = ("pissa", "olora", "lora_ga")
_READS_ROWS = ("eva", "lora_ga")


@dataclass(frozen=True)
class LoRA(Tuner):
    """W + (alpha / r) B A, with W frozen (Hu et al., arXiv 2106.09685).

    r: rank, usually 4 to 64. alpha: scale, usually r to 4 r. dropout: on the adapter's input, 0 to 0.1.
    target_modules: "all-linear" (every linear layer but the head), or the leaf names of layers such as
    ("q_proj", "v_proj"). Suits every stage and model. Usual learning rates: 1e-4 to 5e-4.
    variant: "rslora" scales by alpha / sqrt(r), for high ranks (Kalajdzievski, arXiv 2312.03732); "dora" trains the
    length of each weight's rows beside their direction (Liu et al., arXiv 2402.09353), for low ranks, half as fast.
    init: where A and B start. None: A random, B zero. "pissa": the largest r singular directions of W (Meng et al.,
    arXiv 2404.02948); "olora": orthonormal, from W = QR (Büyükakyüz, arXiv 2406.01775); "lora_ga": along the gradient
    of the stage's first rows (Wang et al., arXiv 2407.05000); "eva": A along the inputs that the layers see of these
    rows (Paischer et al., arXiv 2410.07170; every layer keeps rank r). The first three take what A and B start with
    out of W while they train, and are saved as an ordinary LoRA of rank 2 r on the unchanged W.
    lr_ratio: B's learning rate over A's, usually 2 to 16 (LoRA+, Hayou et al., arXiv 2402.12354).
    layers_to_transform: numbers of the layers that get an adapter, from 0, or from -1 at the top downwards.
    layers_pattern: what the list of layers is called, where a model has several. modules_to_save: layers that are
    trained whole and saved with the adapter. bias: "all" trains the model's biases, "lora_only" those of the adapted
    layers; not in stages with a reference, which the biases would change. fan_in_fan_out: the layers store W
    transposed (GPT-2's Conv1D, which is noticed without it).
    """

    r: int = 16
    alpha: int | None = None  # None: 2 r
    dropout: float = 0.0
    target_modules: TargetModules = "all-linear"
    variant: Literal["rslora", "dora"] | None = None
    init: Literal["pissa", "olora", "eva", "lora_ga", "loftq"] | None = field(default=None, kw_only=True)
    lr_ratio: float | None = field(default=None, kw_only=True)
    layers_to_transform: int | Sequence[int] | None = field(default=None, kw_only=True)
    layers_pattern: str | None = field(default=None, kw_only=True)
    modules_to_save: Sequence[str] | None = field(default=None, kw_only=True)
    bias: Literal["none", "all", "lora_only"] = field(default="none", kw_only=True)
    fan_in_fan_out: bool = field(default=False, kw_only=True)

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, continuable=True, identity_at_start=True, plain_lora=True
    )
    learning_rate_factor: ClassVar[float] = 10.0
    inits: ClassVar[tuple[str, ...]] = ("pissa", "olora", "eva", "lora_ga")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """The settings that the field advises for a purpose, with changes: `LoRA.preset("instruction", r=8)`.

        "classification" (BERT-like models), "instruction", "tiny" (very little compute); of QLoRA also "8GB" (a 7B
        model), "12GB" (13B) and "24GB" (30B), which hold with a 4-bit base only. Raises SettingError for others.
        """
        return cls(**{**settings_of(cls.__name__, name, four_bit=cls.capabilities.four_bit_base), **changes})

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_number(owner, "r", self.r, least=1, whole=True)
        check_number(owner, "alpha", self.alpha, least=1, whole=True)
        check_number(owner, "dropout", self.dropout, least=0.0, below=1.0)
        check_number(owner, "lr_ratio", self.lr_ratio, above=0.0)
        for name in ("r", "dropout"):
            if getattr(self, name) is None:
                refuse(owner, name, None, "a number")
        if self.variant is not None:
            check_choice(owner, "variant", self.variant, ("rslora", "dora"))
        check_choice(owner, "bias", self.bias, ("none", "all", "lora_only"))
        self._check_init(owner)
        object.__setattr__(self, "target_modules", read_targets(owner, self.target_modules))
        object.__setattr__(self, "layers_to_transform", read_layers(owner, self.layers_to_transform))
        if self.layers_pattern is not None and self.layers_to_transform is None:
            refuse(
                owner, "layers_pattern", self.layers_pattern, "given together with layers_to_transform only"
            )
        if self.modules_to_save is not None:
            names = read_names(owner, "modules_to_save", self.modules_to_save)
            if heads := [name for name in names if name in HEADS]:
                raise SettingError(
                    f"{owner}(modules_to_save={list(names)!r}): {heads[0]} is the head; a language model's is read "
                    "directly by the fused loss, so a copy of it would never be trained, and a fresh one is saved "
                    "anyway; leave it out."
                )
            object.__setattr__(self, "modules_to_save", names)
        object.__setattr__(self, "capabilities", self._own_capabilities())

    def _check_init(self, owner: str) -> None:
        if self.init == "loftq" and self.init not in self.inits:
            raise SettingError(
                f"{owner}(init='loftq'): LoftQ makes up for the error of a 4-bit base, and this one has none; take "
                "QLoRA(init='loftq')."
            )
        if self.init is not None:
            check_choice(owner, "init", self.init, self.inits)
            if self.variant == "dora":
                raise SettingError(
                    f"{owner}(init={self.init!r}, variant='dora'): DoRA measures the length of W, which this start "
                    "takes a part out of; leave one of them out."
                )

    def _own_capabilities(self) -> Capabilities:
        rewrites = self.init in _REWRITES_BASE
        own = type(self).capabilities
        return replace(
            own,
            continuable=own.continuable and not rewrites,  # it is saved with twice the rank
            reference_copy=own.reference_copy or rewrites or self.init == "loftq",
            has_reference=own.has_reference and self.bias == "none",
            online=own.online and self.init not in (*_READS_ROWS, "loftq"),
            plain_lora=own.plain_lora and self._is_plain and not rewrites,
        )

    @property
    def _is_plain(self) -> bool:
        return self.variant != "dora" and self.bias == "none" and not self.modules_to_save

    @property
    def adds_up(self) -> bool:
        return self._is_plain and self.base_format is None

    @property
    def joins_products(self) -> bool:
        return (
            self.variant != "dora" and self.bias == "none" and not self.dropout and self.base_format is None
        )

    @property
    def by_depth(self) -> bool:
        return self.layers_to_transform is not None

    def common(self, model: Any, task: Task) -> dict[str, Any]:
        if self.init in _READS_ROWS and task not in ("policy", "reward"):
            raise StrategyError(
                f"{type(self).__name__}(init={self.init!r}) starts from the rows of a language model or a reward model; "
                "leave init out here, or take 'pissa' or 'olora'."
            )
        found = super().common(model, task)
        if self.layers_to_transform is not None:
            found |= self._chosen_layers(model)
        if self.modules_to_save is not None:
            found["modules_to_save"] = [*found.get("modules_to_save", ()), *self._saved_whole(model)]
        return found

    def _chosen_layers(self, model: Any) -> dict[str, Any]:
        """Numbers from 0; PEFT takes them with leaf names of targets only."""
        owner, depths = type(self).__name__, Depths.of(model, type(self).__name__)
        numbers = self.layers_to_transform
        assert isinstance(numbers, tuple)
        if wrong := [number for number in numbers if not -len(depths) <= number < len(depths)]:
            raise StrategyError(
                f"{owner}(layers_to_transform={list(numbers)!r}): there is no layer {wrong[0]}, the model has "
                f"{len(depths)}, numbered from 0."
            )
        pattern = depths.prefix.rsplit(".", 1)[-1] if self.layers_pattern is None else self.layers_pattern
        if f".{pattern}.0." not in "".join(f".{name}." for name, _ in model.named_modules()):
            raise StrategyError(
                f"{owner}(layers_pattern={pattern!r}): the model has no list of layers of that name; its layers are "
                f"{depths.prefix}."
            )
        found: dict[str, Any] = {
            "layers_to_transform": sorted({number % len(depths) for number in numbers}),
            "layers_pattern": pattern,
        }
        if self.target_modules == "all-linear":
            inside = [name for name, _ in linear_layers(model) if f".{pattern}." in f".{name}"]
            found["target_modules"] = sorted({name.rsplit(".", 1)[-1] for name in inside})
        return found

    def _saved_whole(self, model: Any) -> list[str]:
        owner, wanted = type(self).__name__, list(self.modules_to_save or ())
        named = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules() if name}
        for name in wanted:
            if name not in named:
                raise StrategyError(
                    f"{owner}(modules_to_save={wanted!r}): the model has no layer called {name!r}; it has "
                    f"{', '.join(sorted(leaf for leaf in named if not leaf.isdigit()))}."
                )
            if (
                named[name] is model.get_input_embeddings()
                and model.config.get_text_config().tie_word_embeddings
            ):
                raise StrategyError(
                    f"{owner}(modules_to_save={wanted!r}): {name} is one matrix with the head, which would keep the old "
                    "one; leave it out, or take Freeze(modules=[...]) to train the matrix itself."
                )
        return wanted

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.r, lora_alpha=2 * self.r if self.alpha is None else self.alpha, lora_dropout=self.dropout,
            use_rslora=self.variant == "rslora", use_dora=self.variant == "dora", bias=self.bias,
            fan_in_fan_out=self.fan_in_fan_out, **common,
        )  # fmt: skip

    def start(self, model: Any, rows: StartRows | None) -> None:
        from .lora_start import start_layers

        if self.init is not None:
            start_layers(self.init, model, rows)

    def hooks(self, model: Any, schedule: Schedule) -> StepHooks:
        from .lora_start import Residual

        return Residual(model) if self.init in _REWRITES_BASE else StepHooks()

    def rate_factors(self, model: Any) -> Mapping[str, float]:
        if self.lr_ratio is None:
            return {}
        return {
            name: self.lr_ratio
            for name, parameter in model.named_parameters()
            if ".lora_B." in name and parameter.requires_grad
        }


@dataclass(frozen=True)
class LoRAGA(LoRA):
    """LoRA that starts along the gradient of the stage's first rows: LoRA(init="lora_ga").

    Wang et al., arXiv 2407.05000. One pass over 64 rows before step 1, whose gradients of all adapted weights are in
    memory together (on the CPU). r: at most half the width of the narrowest adapted layer.
    """

    init: Literal["lora_ga"] = field(default="lora_ga", kw_only=True)

    capabilities: ClassVar[Capabilities] = replace(
        LoRA.capabilities, continuable=False, reference_copy=True, online=False, plain_lora=False
    )
    inits: ClassVar[tuple[str, ...]] = ("lora_ga",)


@dataclass(frozen=True)
class QLoRA(LoRA):
    """LoRA over a base in 4-bit NF4 with double quantisation (Dettmers et al., arXiv 2305.14314), or in 8 bits.

    bits: 4 (about 0.6 bytes per frozen parameter instead of 2) or 8 (LLM.int8, Dettmers et al., arXiv 2208.07339;
    not under FSDP).
    paged_optimizer: optimizer state that moves to the CPU's memory when the GPU's is full; None: where there is a GPU
    that holds the whole state. PPO keeps its own.
    init: "loftq" starts A and B where they make up best for the error of the 4-bit weights (Li et al., arXiv
    2310.08659, one iteration).
    At the hand-over the adapter is merged into the 16-bit base and into the dequantised one, both are measured against
    the trained model, and the nearer one is kept.
    """

    bits: Literal[4, 8] = field(default=4, kw_only=True)
    paged_optimizer: bool | None = field(default=None, kw_only=True)

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, continuable=True, identity_at_start=True, four_bit_base=True
    )
    inits: ClassVar[tuple[str, ...]] = ("eva", "loftq")

    def _check_init(self, owner: str) -> None:
        if self.bits not in (4, 8) or isinstance(self.bits, bool):
            refuse(owner, "bits", self.bits, "4 or 8")
        if self.init in ("pissa", "olora", "lora_ga"):
            raise SettingError(
                f"{owner}(init={self.init!r}): this start rewrites the base, which is quantised here; take LoRA, or "
                "init='loftq' or 'eva'."
            )
        if self.init == "loftq" and self.bits == 8:
            raise SettingError(f"{owner}(init='loftq', bits=8): LoftQ is for 4 bits; leave one of them out.")
        super()._check_init(owner)

    def optimizer(self, pageable: bool) -> str | None:
        paged = pageable if self.paged_optimizer is None else self.paged_optimizer
        return "paged_adamw_32bit" if paged else None

    @property
    def base_format(self) -> Literal["nf4", "int8"]:
        return "nf4" if self.bits == 4 else "int8"

    def prepare_base(self, model: Any) -> Any:
        from ...pipeline.quantization import quantise
        from .lora_start import keep_error

        seen = keep_error(self.r) if self.init == "loftq" else None
        return quantise(model, model.dtype, self.base_format, seen)
