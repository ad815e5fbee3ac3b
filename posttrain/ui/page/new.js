"use strict";
(() => {
  const { say, make } = ui;
  const recipes = ui.data(), $ = (id) => document.getElementById(id);
  let schema, stages, strategies; // of recipe files: what there is, and what can be set
  let state = {}; // {model, seed, strategy, stages} or {flags}; a setting's value is the text that was typed
  let planned = ""; // what the plan below is of

  // From a value of a packaged recipe to the text that says it.
  const typed = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));
  const named = (value) => {
    const [kind, settings] = typeof value === "string" ? [value, {}] : Object.entries(value)[0];
    return { kind, settings: Object.fromEntries(Object.entries(settings ?? {}).map(([name, one]) => [name, name === "strategy" ? named(one) : typed(one)])) };
  };
  const empty = { model: "embedded", seed: 0, strategy: { LoRA: {} }, stages: [{ SFT: {} }] };

  // Texts are quoted where YAML would read something else; a value of another kind stands as it was typed.
  const plain = (text) => /^[A-Za-z_.\/~][\w.\/~@+ -]*$/.test(text) && !/ $/.test(text) && !/^(null|true|false|~)$/i.test(text);
  const isText = (shape) => variants(shape).some((one) => one.type === "string" || one.$ref === "#/$defs/DataSource") && !variants(shape).some((one) => ["integer", "number", "boolean", "array", "object"].includes(one.type));
  const variants = (shape) => shape.anyOf ?? [shape];
  function scalar(text, shape) {
    if (!shape || !isText(shape)) return text;
    return plain(text) || /^[[{]/.test(text) ? text : JSON.stringify(text);
  }

  function lines(one, forms, indent) {
    const shapes = forms[one.kind]?.properties ?? {}, out = [];
    for (const [name, value] of Object.entries(one.settings)) {
      if (typeof value === "object") {
        const below = lines(value, strategies, `${indent}    `);
        out.push(`${indent}${name}:`, `${indent}  ${value.kind}:${below.length ? "" : " {}"}`, ...below);
      } else if (value.trim() !== "") out.push(`${indent}${name}: ${scalar(value.trim(), shapes[name])}`);
    }
    return out;
  }
  function written() {
    if (state.flags) return "";
    const strategy = lines(state.strategy, strategies, "    ");
    return [
      `model: ${scalar(state.model.trim() || "embedded", { type: "string" })}`, `seed: ${state.seed.trim() || 0}`, "",
      "strategy: # of every stage that names none", `  ${state.strategy.kind}:${strategy.length ? "" : " {}"}`, ...strategy, "", "stages:",
      ...state.stages.flatMap((stage) => { const below = lines(stage, stages, "      "); return [`  - ${stage.kind}:${below.length ? "" : " {}"}`, ...below]; }), "",
    ].join("\n");
  }

  let numbered = 0;
  function control(name, shape, value, changed) {
    const id = `s${numbered++}`, options = variants(shape).flatMap((one) => one.enum ?? (one.type === "boolean" ? [true, false] : []));
    const numeric = variants(shape).some((one) => ["integer", "number"].includes(one.type));
    let field;
    if (options.length && variants(shape).every((one) => one.enum || ["boolean", "null"].includes(one.type))) {
      field = make("select", { id }, make("option", { value: "" }, "–"), options.map((one) => make("option", { value: String(one), selected: String(one) === value }, String(one))));
    } else {
      field = make("input", { id, value, autocomplete: "off", spellcheck: "false", inputmode: numeric ? "decimal" : "text", placeholder: shape.default == null ? "" : String(shape.default) });
    }
    field.addEventListener("input", () => changed(field.value));
    return { id, field };
  }

  function settingsOf(one, form, again) {
    const shapes = form?.properties ?? {}, box = make("div", { class: "settings" });
    if ("data" in shapes) one.settings = { data: "", ...one.settings }; // what a stage learns from is always asked for
    for (const [name, value] of Object.entries(one.settings)) {
      const shape = shapes[name] ?? {}, about = shape.description ? make("small", {}, shape.description) : null;
      const off = make("button", { type: "button", class: "off" }, say("Remove"), make("span", { class: "hidden" }, ` ${name}`));
      off.addEventListener("click", () => { delete one.settings[name]; again(); });
      if (typeof value === "object") {
        box.append(make("div", { class: "setting nested" }, kindOf(value, strategies, again, name), off, settingsOf(value, strategies[value.kind], again)));
        continue;
      }
      const { id, field } = control(name, shape, value, (text) => { one.settings[name] = text; changed(); });
      box.append(make("div", { class: "setting" }, make("label", { for: id }, name), field, name === "data" ? null : off, about));
    }
    const left = Object.keys(shapes).filter((name) => !(name in one.settings));
    if (left.length) {
      const id = `s${numbered++}`, more = make("select", { id }, make("option", { value: "" }, "…"), left.map((name) => make("option", { value: name }, name)));
      more.addEventListener("change", () => {
        one.settings[more.value] = more.value === "strategy" ? { kind: "LoRA", settings: {} } : "";
        const name = more.value;
        again();
        focus(one, name);
      });
      box.append(make("div", { class: "setting more" }, make("label", { for: id }, say("Set more")), more));
    }
    box.one = one;
    return box;
  }
  function focus(one, name) {
    const box = [...document.querySelectorAll(".settings")].find((found) => found.one === one);
    [...(box?.querySelectorAll("label") ?? [])].find((label) => label.textContent === name)?.control?.focus();
  }

  function kindOf(one, forms, again, label) {
    const id = `s${numbered++}`, select = make("select", { id }, Object.keys(forms).map((kind) => make("option", { value: kind, selected: kind === one.kind }, kind)));
    select.addEventListener("change", () => {
      one.kind = select.value;
      const known = forms[one.kind].properties;
      one.settings = Object.fromEntries(Object.entries(one.settings).filter(([name]) => name in known));
      again();
    });
    return make("span", { class: "kind" }, make("label", { for: id }, label), select);
  }

  function stageBox(stage, place) {
    const move = (by) => { state.stages.splice(place, 1); state.stages.splice(place + by, 0, stage); draw(); };
    const button = (words, act, off) => { const made = make("button", { type: "button", disabled: off }, say(words)); made.addEventListener("click", act); return made; };
    return make("fieldset", { class: "stage" }, make("legend", {}, say("Stage {0}", place + 1)),
      make("div", { class: "buttons" }, kindOf(stage, stages, draw, say("Kind")), button("Up", () => move(-1), place === 0), button("Down", () => move(1), place === state.stages.length - 1),
        button("Remove", () => { state.stages.splice(place, 1); draw(); }, state.stages.length === 1)),
      make("p", { class: "faint" }, stages[stage.kind]?.description ?? ""), settingsOf(stage, stages[stage.kind], draw));
  }

  function draw() {
    const box = make("div", { id: "settings", hidden: $("by-hand").checked });
    if (state.flags) {
      for (const flag of recipe().flags) {
        const { id, field } = control(flag.name, { default: flag.default, type: flag.kind }, state.flags[flag.name], (text) => { state.flags[flag.name] = text; changed(); });
        box.append(make("div", { class: "setting" }, make("label", { for: id }, flag.name), field));
      }
    } else {
      const top = (name) => { const { id, field } = control(name, schema.properties[name], state[name], (text) => { state[name] = text; changed(); }); return make("p", { class: "field" }, make("label", { for: id }, name), field); };
      const add = make("button", { type: "button" }, say("Add a stage"));
      add.addEventListener("click", () => { state.stages.push({ kind: "SFT", settings: {} }); draw(); });
      box.append(make("div", { class: "pair" }, top("model"), top("seed")),
        make("fieldset", { class: "stage" }, make("legend", {}, say("Strategy of all stages")), kindOf(state.strategy, strategies, draw, say("Kind")), make("p", { class: "faint" }, strategies[state.strategy.kind]?.description ?? ""), settingsOf(state.strategy, strategies[state.strategy.kind], draw)),
        ...state.stages.map(stageBox), add);
    }
    $("settings").replaceWith(box);
    changed();
  }

  const recipe = () => recipes.find((one) => one.name === $("recipe").value);
  function choose() {
    const one = recipe(), from = one?.recipe ?? empty;
    $("summary").textContent = one?.summary ?? "";
    $("name").value = one?.name ?? "run";
    $("by-hand").checked = false;
    state = one?.flags
      ? { flags: Object.fromEntries(one.flags.map((flag) => [flag.name, flag.default == null ? "" : String(flag.default)])) }
      : { model: typed(from.model), seed: typed(from.seed), strategy: named(from.strategy), stages: from.stages.map(named) };
    rest();
    draw();
  }
  function rest() {
    const byHand = $("by-hand").checked;
    $("text").readOnly = !byHand;
    $("settings").hidden = byHand;
    $("by-hand-box").hidden = Boolean(state.flags);
  }

  function changed() {
    if (state.flags) $("text").value = ["posttrain run", `${recipe().name}.py`, ...Object.entries(state.flags).filter(([, value]) => value).map(([name, value]) => `--${name.replaceAll("_", "-")}=${value}`)].join(" ");
    else if (!$("by-hand").checked) $("text").value = written();
    $("start-button").disabled = JSON.stringify(asked()) !== planned;
    $("plan").classList.toggle("old", $("start-button").disabled);
  }
  const asked = () => (state.flags ? { name: $("name").value.trim(), script: recipe().name, flags: state.flags } : { name: $("name").value.trim(), yaml: $("text").value });

  function table(plan) {
    const share = (one) => `${ui.count(one.trainable_parameters)} (${((100 * one.trainable_parameters) / one.total_parameters).toPrecision(2)} %)`;
    const columns = [
      ["stage", (one) => one.stage], ["rows", (one) => ui.count(one.rows)], ["held out", (one) => ui.count(one.held_out)], ["cut", (one) => ui.count(one.cut)], ["dropped", (one) => ui.count(one.dropped)], ["tokens", (one) => ui.count(one.tokens)], ["steps", (one) => ui.count(one.steps)],
      ["trained parameters", (one) => (one.total_parameters ? share(one) : "–")], ["peak memory", (one) => (one.memory_bytes == null ? "–" : ui.bytes(one.memory_bytes))], ["disk", (one) => (one.disk_bytes == null ? "–" : ui.bytes(one.disk_bytes))],
    ];
    const cells = (one) => columns.map(([name, of]) => (name === "stage" ? make("th", { scope: "row" }, of(one)) : make("td", { class: "n", ...ui.cell(name) }, of(one))));
    const head = columns.map(([name]) => make("th", { scope: "col", class: name === "stage" ? null : "n" }, say(name)));
    return make("div", { class: "wide", tabindex: "0", role: "group", "aria-labelledby": "plan-head" }, make("table", { class: "stack" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, plan.map((one) => make("tr", {}, cells(one))))));
  }
  const shown = () => $("plan").scrollIntoView({ block: "nearest" }); // the form above it may be long
  const notes = (plan) => plan.filter((one) => one.notes?.length).map((one) => make("details", {}, make("summary", {}, one.stage), make("ul", { class: "lines" }, one.notes.map((note) => make("li", {}, note)))));

  $("plan-button").addEventListener("click", async () => {
    const of = asked(), button = $("plan-button");
    ui.fail();
    button.disabled = true;
    $("plan").replaceChildren(make("p", { class: "faint busy" }, say("Reads the data and plans; no weights are loaded …")));
    shown();
    try {
      const plan = await ui.post("/api/plan", of);
      planned = JSON.stringify(of);
      $("plan").replaceChildren(make("h2", { id: "plan-head" }, say("Plan")), table(plan), ...notes(plan));
      shown();
    } catch (error) { $("plan").replaceChildren(); ui.fail(error); }
    button.disabled = false;
    changed();
  });
  $("start-button").addEventListener("click", async () => {
    ui.fail();
    $("start-button").disabled = true;
    try { location.assign(`/runs/${(await ui.post("/api/start", asked())).id}`); } catch (error) { ui.fail(error); changed(); }
  });
  $("recipe").addEventListener("change", choose);
  $("by-hand").addEventListener("change", () => { rest(); changed(); });
  for (const id of ["name", "text"]) $(id).addEventListener("input", changed);
  $("form").addEventListener("submit", (event) => event.preventDefault());

  (async () => {
    schema = await ui.get("/api/schema");
    const forms = (kind) => schema.$defs[kind].anyOf.find((one) => one.properties).properties;
    stages = forms("Stage"); strategies = forms("Strategy");
    $("recipe").append(...recipes.map((one) => make("option", { value: one.name }, one.name)), make("option", { value: "" }, "–"));
    $("recipe").value = recipes.find((one) => one.recipe)?.name ?? "";
    choose();
    ui.ready();
  })();
})();
