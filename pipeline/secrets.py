"""What must not be kept in a run folder or shown: passwords and access keys, by their names, forms and environment."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

_NAMES = re.compile(
    r"^((hub|hf|auth|access|api|bearer|wandb)_)?token$|secret|password|passwd|api_?key$|access_?key$", re.I
)
# Access keys of the Hub, GitHub, OpenAI-like services, AWS, Slack, wandb, and signed tokens.
_FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_\w{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|sk-[\w-]{16,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-[\w-]{10,}|wandb_v1_\w{16,}|eyJ[\w-]{16,}\.[\w.-]*)"
)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # of an address
_IN_ADDRESS = re.compile(
    r"(?<=[?&])(token|key|sig|signature|secret|password|api_key|access_token)=[^&\s#'\"]+", re.I
)
# A value that is given its name in a text: "password=...", "Authorization: Bearer ...", "'api_key': '...'".
_NAMED = re.compile(
    r"((?:(?:hub|hf|auth|access|api|bearer|wandb)[_-]?token|secret|password|passwd|api[_-]?key|access[_-]?key)"
    r"['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&]{6,}",
    re.I,
)
_BEARER = re.compile(r"(?<=bearer )[\w.~+/=-]{8,}", re.I)
# wandb's older keys look like a commit; so they are one only beside their name.
_HEX_KEY = re.compile(r"((?:wandb|login|api.?key)[^\n]{0,24}?\b)[0-9a-f]{40}\b", re.I)
_VARIABLES = re.compile(r"TOKEN(?!IZERS)|KEY(?!BOARD|MAP)|SECRET|PASSW|CREDENTIAL", re.I)
_SHORTEST = 8  # characters of a variable's value; "true" and "1" are no secrets


def redacted(text: str) -> str:
    """A text without access keys, without the names and passwords of addresses, and without what the environment
    holds under a secret's name.
    """
    text = _BEARER.sub("***", _without_keys(text))
    return _HEX_KEY.sub(r"\1***", _NAMED.sub(r"\1***", text))


def without_secrets(value: Any) -> Any:
    """The same for every text in a value of JSON; what stands under a secret's name is left out whole."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {
            key: "***" if looks_secret(key, item) else without_secrets(item) for key, item in value.items()
        }
    return [without_secrets(item) for item in value] if isinstance(value, (list, tuple)) else value


def looks_secret(name: str, value: object) -> bool:
    """Whether a value is a secret, by the name it is given, by its own form, or by the environment."""
    if not isinstance(value, str) or not value:
        return False
    named = _NAMES.search(name.lstrip("-").replace("-", "_"))
    return bool(named or _FORMS.search(value)) or any(one in value for one in _of_environment())


def holds_secret(name: str, value: object) -> bool:
    """Whether a value is a secret or has one in it, as the address of a server with its password."""
    return looks_secret(name, value) or (isinstance(value, str) and _without_keys(value) != value)


def _without_keys(text: str) -> str:
    """Without what is a secret whatever stands around it; a sentence about a password is none."""
    for value in _of_environment():
        text = text.replace(value, "***")
    return _IN_ADDRESS.sub(r"\1=***", _LOGIN.sub("***", _FORMS.sub("***", text)))


@lru_cache(maxsize=4096)
def _names_a_secret(variable: str) -> bool:
    return _VARIABLES.search(variable) is not None


def _of_environment() -> Iterator[str]:
    """The values of variables such as HF_TOKEN and WANDB_API_KEY; a file's name is none."""
    for name in os.environ:
        if _names_a_secret(name):
            value = os.environ[name]
            if len(value) >= _SHORTEST and not os.path.exists(value):
                yield value
