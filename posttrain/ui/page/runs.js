"use strict";
(() => {
  const { say, make } = ui;
  let rows = ui.data();

  function when(seconds) {
    const ago = Math.max(0, Date.now() / 1000 - seconds);
    if (!seconds) return "–";
    if (ago < 60) return say("{0} s ago", Math.round(ago));
    if (ago < 3600) return say("{0} min ago", Math.round(ago / 60));
    const at = new Date(seconds * 1000), two = (n) => String(n).padStart(2, "0");
    return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
  }

  function progress(row) {
    if (row.step == null || row.status === "stopped") return null;
    return [
      row.steps ? make("progress", { max: row.steps, value: row.step, "aria-hidden": "true" }) : null,
      make("span", { class: "faint" }, row.steps ? say("step {0} of {1}", row.step, row.steps) : say("step {0}", row.step)),
    ];
  }

  // Of a run that was stopped there is nothing wrong to tell.
  function why(row) {
    if (row.error) return make("small", { class: row.status === "stopped" ? "why" : "why bad" }, row.error);
    return row.status === "stopped" && row.resumes && row.step != null ? make("small", { class: "why" }, say("stopped after step {0}; resume goes on", row.step)) : null;
  }

  const line = (row) => make("tr", { "data-run": row.id, "data-status": row.status },
    make("th", { scope: "row" }, make("a", { href: `/runs/${row.id}` }, row.name), why(row)),
    make("td", {}, make("span", { class: `state ${row.status}` }, say(row.status))),
    make("td", {}, make("ol", { class: "chain" }, row.stages.map((stage) => make("li", { class: stage.state }, stage.name))), progress(row)),
    make("td", { class: "n" }, row.loss == null ? "" : ui.number(row.loss)),
    make("td", {}, when(row.changed)),
    make("td", { class: "n" }, ui.bytes(row.bytes)),
    make("td", {}, make("div", { class: "buttons" },
      ["running", "starting", "stopping"].includes(row.status) ? make("button", { type: "button", "data-action": "stop", disabled: row.status === "stopping" }, say("Stop")) : null,
      row.resumes ? make("button", { type: "button", "data-action": "resume" }, say("Resume")) : null,
      row.chats ? make("a", { class: "button", href: `/chat?run=${row.id}` }, say("Chat")) : null)));

  function show() {
    const head = ["run", "state", "stages", "loss", "changed", "size"].map((name) => make("th", { scope: "col", class: ["loss", "size"].includes(name) ? "n" : null }, say(name)));
    const fresh = make("div", { class: "wide", id: "list" }, rows.length
      ? make("table", { class: "runs" }, make("thead", {}, make("tr", {}, head, make("td"))), make("tbody", {}, rows.map(line)))
      : make("p", { class: "nothing" }, say("There is no run here yet."), " ", make("a", { class: "button strong", href: "/new" }, say("New run"))));
    ui.morph(document.getElementById("list"), fresh);
  }

  show();
  ui.follow("/api/events", (heard) => { rows = heard; show(); });
  setInterval(show, 10000);
  ui.ready();
})();
