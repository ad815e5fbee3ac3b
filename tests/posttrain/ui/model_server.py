"""Stands in for `posttrain serve RUN --port N`: its addresses, its key and its events, and an answer that needs no model.

The answer is the model's name and the last message; "SLEEP" in it keeps the answer coming for a minute, "HANG" keeps it
waiting for its end.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RUN, PORT = Path(sys.argv[1]), int(sys.argv[3])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self._is_known():
            self._say(200, {"data": [{"id": name} for name in ("base", "sft", "dpo")]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_known():
            return
        if self.path == "/v1/load_lora_adapter":
            refused = Path(asked["lora_path"]).name == "prompts"
            self._say(400 if refused else 200, {"error": {"message": "no LoRA"}} if refused else {})
            return
        if asked["max_tokens"] > 1000:
            self._say(400, {"error": {"message": "max_tokens: at most 1,000 <b>tokens</b>"}})
            return
        last = asked["messages"][-1]["content"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in (f"{asked['model']}: ", last[: len(last) // 2], last[len(last) // 2 :]):
            self._event({"choices": [{"delta": {"content": piece}}]})
        if "HANG" in last:
            self.connection.recv(1)  # nothing, once whoever asked is gone
            (RUN / "left").touch()
            return
        try:
            for _ in range(600 if "SLEEP" in last else 0):
                time.sleep(0.1)
                self._event({"choices": [{"delta": {"content": "z"}}]})
        except OSError:
            (RUN / "left").touch()  # whoever asked is gone
            return
        self.wfile.write(b"data: [DONE]\n\n")

    def _is_known(self) -> bool:
        known = self.headers["Authorization"] == f"Bearer {os.environ['POSTTRAIN_API_KEY']}"
        if not known:
            self._say(401, {"error": {"message": "no key"}})
        return known

    def _event(self, value: Any) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def _say(self, status: int, value: Any) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())


if (RUN / "broken").exists():
    sys.exit("ModelError: this run has no model.")
with (RUN / "served").open("a") as file:
    file.write(f"{os.getpid()}\n")
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
