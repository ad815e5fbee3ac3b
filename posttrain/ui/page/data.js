"use strict";
(() => {
  const { say, make } = ui, $ = (id) => document.getElementById(id), { most } = ui.data();
  const kinds = ["text", "conversation", "preference", "unpaired", "prompt", "labelled", "tagged"];
  $("kind").append(make("option", { value: "" }, "–"), ...kinds.map((kind) => make("option", { value: kind }, kind)));
  let asked = 0;

  const options = (name) => ({ name, model: $("model").value.trim(), kind: $("kind").value, max_length: $("max-length").value.trim() });
  const given = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value));

  async function look(of, ask) {
    const mine = ++asked;
    ui.fail();
    $("found").replaceChildren(make("p", { class: "faint busy" }, say("Reads {0} …", of)));
    try {
      const found = await ask();
      if (mine === asked) show(found);
    } catch (error) { if (mine === asked) { $("found").replaceChildren(); ui.fail(error); } }
  }
  function dropped(file) {
    if (!file) return;
    if (file.size > most) { $("found").replaceChildren(); ui.fail(new Error(`${file.name}: ${ui.bytes(file.size)} > ${ui.bytes(most)}`)); return; }
    look(file.name, async () => ui.answer(await fetch(`/api/inspect?${new URLSearchParams(given(options(file.name)))}`, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file })));
  }

  function bars({ histogram, max_length: limit }) {
    const longest = Math.max(1, ...histogram.map(([, , rows]) => rows));
    const label = (low, high) => (low < high ? `${ui.count(low)}–${ui.count(high)}` : ui.count(low));
    const row = ([low, high, rows]) => make("tr", { class: low > limit ? "over" : null }, make("th", { scope: "row" }, label(low, high)), make("td", { class: "n" }, ui.count(rows)), make("td", { class: "bar" }, make("progress", { max: longest, value: rows, "aria-hidden": "true" })));
    const border = make("tr", { class: "limit" }, make("td", { colspan: 3 }, `max_length ${ui.count(limit)}`));
    const first = histogram.findIndex(([low]) => low > limit), at = first < 0 ? histogram.length : first;
    const lines = [...histogram.slice(0, at).map(row), border, ...histogram.slice(at).map(row)];
    return [make("h2", {}, say("Rows by their length in tokens")), make("table", { class: "bars" }, make("tbody", {}, lines))];
  }
  // A newline can be seen, and is not copied with the text.
  const seen = (text) => text.split("\n").flatMap((line, i) => (i ? [make("span", { class: "newline" }, "↵"), "\n", line] : [line]));
  const example = (row) => make("div", { class: "row" }, make("h3", {}, row.place, " ", make("small", {}, say("{0} tokens, {1} of them trained", ui.count(row.tokens), ui.count(row.trained)))),
    row.parts.map(([name, pieces]) => [name ? make("h4", {}, name) : null, make("pre", {}, pieces.map(([text, trained]) => make(trained ? "mark" : "span", {}, seen(text))))]));

  function show(found) {
    const { tokens } = found, out = [make("h2", { class: "source" }, found.source), make("p", { class: found.good ? "good" : "bad", id: "verdict" }, say(found.verdict_words[0], ...found.verdict_words[1]))];
    out.push(make("dl", { class: "figures" }, found.figures.map(([name, value]) => [make("dt", {}, ui.named(name)), make("dd", {}, value === "none" ? say(value) : value)])));
    if (found.bad_lines.length) {
      out.push(make("h2", {}, say("Bad rows")), make("ul", { class: "lines bad-rows" }, found.bad_lines.map((line) => make("li", {}, line))));
      if (found.bad_rows > found.bad_lines.length) out.push(make("p", { class: "faint" }, say("and {0} more", ui.count(found.bad_rows - found.bad_lines.length))));
    }
    if (found.lengths.length) {
      const head = ["", "half up to", "95 % up to", "longest"].map((name) => (name ? make("th", { scope: "col", class: "n" }, say(name)) : make("td")));
      out.push(make("h2", {}, say("Lengths")), make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, found.lengths.map(([name, ...of]) => make("tr", {}, make("th", { scope: "row" }, ui.named(name)), of.map((value) => make("td", { class: "n" }, ui.count(value))))))));
    }
    if (tokens) {
      out.push(make("h2", {}, say("Tokens")), make("ul", { class: "lines" }, tokens.lines.map((line) => make("li", {}, line))), ...bars(tokens));
      if (tokens.rows.length) out.push(make("h2", {}, say("Rows as they are trained")), make("p", { class: "faint" }, make("mark", {}, say("trained")), ", ", say("not trained")), ...tokens.rows.map(example));
    }
    $("found").replaceChildren(...out);
  }

  $("file").addEventListener("change", () => { dropped($("file").files[0]); $("file").value = ""; });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.toggle("over", kind === "dragover"); });
  }
  addEventListener("drop", (event) => dropped(event.dataTransfer?.files[0]));
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const path = $("path").value.trim();
    if (path) look(path, () => ui.post("/api/inspect-path", given(options(path))));
  });
  ui.ready();
})();
