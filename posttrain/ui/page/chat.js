"use strict";
(() => {
  const { say, make } = ui, $ = (id) => document.getElementById(id), runs = ui.data();
  const asked = new URLSearchParams(location.search).get("run");
  const talkers = [talker(0), talker(1)];
  let halt; // ends the answers on their way

  // One side: a stage of a run, and what was said to it and by it.
  function talker(side) {
    const one = { side, messages: [], opened: "" };
    one.run = make("select", { id: `run${side}` }, runs.map((row) => make("option", { value: row.id, selected: row.id === asked }, row.name)));
    one.model = make("select", { id: `model${side}`, disabled: true });
    one.load = make("button", { type: "button" }, say("Load"));
    one.load.addEventListener("click", () => open(one));
    one.status = make("p", { class: "faint status", role: "status" });
    one.log = make("div", { class: "log", role: "log", tabindex: "0", "aria-labelledby": `run${side}-label` });
    one.box = make("section", { class: "talker", "aria-labelledby": `run${side}-label` },
      make("div", { class: "pair" }, make("p", { class: "field" }, make("label", { for: `run${side}`, id: `run${side}-label` }, say("Run")), one.run), make("p", { class: "field" }, make("label", { for: `model${side}` }, say("Stage")), make("span", { class: "joined" }, one.model, one.load))),
      one.status, one.log);
    one.run.addEventListener("change", () => { one.model.replaceChildren(); clear(one); open(one); });
    one.model.addEventListener("change", () => clear(one));
    return one;
  }
  function clear(one) { one.messages = []; one.log.replaceChildren(); }

  async function open(one) {
    const run = one.run.value;
    if (one.opened === run && one.model.options.length) return true;
    one.model.disabled = one.load.disabled = true;
    one.load.hidden = false;
    one.status.replaceChildren(make("span", { class: "busy" }, say("Loads the model …")));
    try {
      const { models } = await ui.post("/api/chat/open", { run });
      if (one.run.value !== run) return false;
      one.model.replaceChildren(...models.map((name) => make("option", { value: name }, name)));
      one.model.selectedIndex = Math.max(0, models.length - 1 - one.side);
      one.opened = run;
      one.model.disabled = false;
      one.load.hidden = true;
      one.status.replaceChildren();
      return true;
    } catch (error) {
      one.status.replaceChildren(make("span", { class: "bad" }, error.message));
      return false;
    } finally { one.load.disabled = false; }
  }

  function bubble(one, role) {
    const text = make("pre", { dir: "auto" });
    one.log.append(make("div", { class: `said ${role}` }, text));
    return text;
  }
  function added(one, place, text) {
    const end = one.log.scrollHeight - one.log.scrollTop - one.log.clientHeight < 24;
    place.textContent += text;
    if (end) one.log.scrollTop = one.log.scrollHeight;
  }

  async function speak(one, text, signal) {
    if (!(await open(one))) return;
    one.messages.push({ role: "user", content: text });
    added(one, bubble(one, "user"), text);
    const place = bubble(one, "assistant"), begun = performance.now();
    const request = { run: one.run.value, model: one.model.value, messages: one.messages, temperature: Number($("temperature").value.trim()), max_tokens: Number($("longest").value.trim()) };
    one.status.replaceChildren(make("span", { class: "busy" }, say("Answers …")));
    let pieces = 0, why = "";
    try {
      const response = await fetch("/api/chat", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request), signal });
      if (!response.ok) await ui.answer(response);
      for await (const event of events(response.body)) {
        if (event.error) throw new Error(event.error.message);
        const piece = event.choices?.[0]?.delta?.content;
        if (piece) { pieces += 1; added(one, place, piece); }
      }
    } catch (error) { if (error.name !== "AbortError") why = error.message; }
    one.messages.push({ role: "assistant", content: place.textContent });
    if (why && !place.textContent) { one.messages.splice(-2); place.parentElement.remove(); }
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    one.status.replaceChildren(why ? make("span", { class: "bad" }, why) : say("{0} pieces in {1} s", pieces, seconds));
  }

  // The data of server-sent events, up to [DONE].
  async function* events(body) {
    let left = "";
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (left + value).split(/\r?\n\r?\n/);
      left = parts.pop();
      for (const part of parts) {
        const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  }

  // What the server would take for its own default is refused here.
  const right = {
    temperature: (text) => /^(\d+\.?\d*|\.\d+)$/.test(text) && Number(text) <= 2,
    longest: (text) => /^\d+$/.test(text) && Number(text) >= 1,
  };
  function checked(name) {
    const good = right[name]($(name).value.trim());
    $(name).setAttribute("aria-invalid", String(!good));
    $(`${name}-wrong`).hidden = good;
    return good;
  }
  function allRight() {
    const wrong = Object.keys(right).filter((name) => !checked(name));
    if (wrong.length) $(wrong[0]).focus();
    return !wrong.length;
  }

  const shown = () => talkers.filter((one) => !one.box.hidden);
  async function send() {
    const text = $("message").value.trim();
    if (!text || halt || !allRight()) return;
    $("message").value = "";
    halt = new AbortController();
    $("send").disabled = true; $("halt").disabled = false;
    await Promise.all(shown().map((one) => speak(one, text, halt.signal)));
    halt = undefined;
    $("send").disabled = false; $("halt").disabled = true;
    $("message").focus();
  }

  $("talkers").append(...talkers.map((one) => one.box));
  talkers[1].box.hidden = true;
  $("two").addEventListener("change", () => {
    talkers[1].box.hidden = !$("two").checked;
    $("talkers").classList.toggle("both", $("two").checked);
    if ($("two").checked) open(talkers[1]);
  });
  $("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  $("message").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); } });
  for (const name of Object.keys(right)) $(name).addEventListener("input", () => checked(name));
  $("halt").addEventListener("click", () => halt?.abort());
  $("over").addEventListener("click", () => talkers.forEach(clear));
  $(runs.length ? "chat" : "none").hidden = false;
  if (asked && runs.some((row) => row.id === asked)) open(talkers[0]);
  ui.ready();
})();
