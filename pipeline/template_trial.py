"""A chat template is tried once, in a process with little time and memory, before it may run in this one.

The sandbox of chat templates keeps them from files and code; it does not keep `{{ 9 ** (9 ** 9) }}` from taking all the
time, nor `{{ 'a' * 10 ** 11 }}` all the memory, and neither can be interrupted from inside. What was found out is
remembered by the template's text.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from typing import Any

from posttrain.errors import ModelError

from .cache import cache_folder
from .digests import digest_of
from .durable import write_json

SECONDS = 10  # of processor time; templates need milliseconds
MEMORY = 1 << 30  # bytes, the interpreter among them
_TOO_MUCH = 9  # exit code of the trial
_PATIENCE = 600  # seconds; a busy machine may take long over ten seconds of work

# A program of its own, which has neither transformers nor torch to load. Its sandbox and names are transformers'.
_TRIAL = """
import json, resource, sys
seconds, memory = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import jinja2, jinja2.ext, jinja2.sandbox

class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)

def refuse(message=""):
    raise jinja2.exceptions.TemplateError(message)

given = json.loads(sys.stdin.buffer.read())
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
environment.filters["tojson"] = lambda x, **more: json.dumps(
    x, **{name: value for name, value in more.items() if name in ("indent", "ensure_ascii", "separators", "sort_keys")})
environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: "2026"}
try:
    template = environment.from_string(given["template"])
except MemoryError:
    sys.exit(9)
except Exception:
    sys.exit(0)
for case in given["cases"]:
    try:
        template.render(**case, **given["names"])
    except MemoryError:
        sys.exit(9)
    except Exception:
        pass
"""
_CALL = {"id": "000000000", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
_TOOL = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}  # fmt: skip
_ASKED, _SAID = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}
_DIALOGUES: tuple[list[dict[str, Any]], ...] = (
    [_ASKED], [_ASKED, _SAID], [{"role": "system", "content": "Be kind."}, *[_ASKED, _SAID] * 4],
    [_ASKED, {"role": "assistant", "content": "", "tool_calls": [_CALL]},
     {"role": "tool", "name": "f", "tool_call_id": "000000000", "content": "2"}, _SAID],
)  # fmt: skip


@lru_cache(maxsize=64)
def try_template(template: str, names: tuple[tuple[str, str], ...] = ()) -> None:
    """names: the special tokens that a template may write.

    Raises ModelError for one that takes more than SECONDS or MEMORY for a dialogue of a few words.
    """
    note = cache_folder() / "templates" / f"{digest_of([template, SECONDS, MEMORY])[:32]}.json"
    if note.is_file():
        return
    cases = [
        {"messages": turns, "tools": tools, "documents": None, "add_generation_prompt": asks}
        for turns in _DIALOGUES
        for tools in (None, [_TOOL])
        for asks in (False, True)
    ]
    given = json.dumps({"template": template, "names": dict(names), "cases": cases}).encode(
        "utf-8", "replace"
    )
    command = [sys.executable, "-P", "-c", _TRIAL, str(SECONDS), str(MEMORY)]
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        ended = _TOO_MUCH
    else:
        ended = done.returncode
        assert ended <= 0 or ended == _TOO_MUCH, done.stderr.decode(errors="replace")
    if ended:  # or killed by a signal: SIGXCPU
        raise ModelError(
            f"The chat template of this model takes more than {SECONDS} s of processor time or {MEMORY >> 20} MB of "
            "memory to write a dialogue of a few words, so it is not used; look at its tokenizer's chat_template, and "
            "take it from a place that you trust."
        )
    write_json(note, {"seconds": SECONDS, "memory": MEMORY})
