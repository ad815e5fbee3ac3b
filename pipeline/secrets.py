"""What must not be kept in a run folder or shown: passwords and access keys, by their names and their known forms."""

import re

_NAMES = re.compile(
    r"^((hub|hf|auth|access|api|bearer|wandb)_)?token$|secret|password|api_?key$|access_?key$", re.I
)
# Access keys of the Hub, GitHub, OpenAI-like services, AWS, Slack, and signed tokens.
_FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_\w{16,}|gh[pousr]_\w{20,}|sk-[\w-]{16,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{16,}\.)"
)


_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # of an address


def redacted(text: str) -> str:
    """A text without access keys, and without the names and passwords of addresses."""
    return _LOGIN.sub("***", _FORMS.sub("***", text))


def looks_secret(name: str, value: object) -> bool:
    """Whether a value is a secret, by the name it is given or by its own form."""
    if not isinstance(value, str) or not value:
        return False
    return bool(_NAMES.search(name.lstrip("-").replace("-", "_")) or _FORMS.search(value))
