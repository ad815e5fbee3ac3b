"use strict";
// What the pages share. Everything that a user, a file or a model wrote becomes text nodes, and nothing else.
const ui = (() => {
  const root = document.documentElement;
  const zh = JSON.parse(document.getElementById("words").textContent);

  // The report's page has a handler of its own for the button.
  const kept = localStorage.getItem("posttrain-language"), language = document.getElementById("language");
  root.lang = kept ?? ((navigator.language || "").startsWith("zh") ? "zh-Hans" : "en");
  language.hidden = false;
  // The bar names the page in both languages; a run's page is named after the run.
  const here = document.querySelector(".bar [aria-current]");
  const entitle = () => { if (here) document.title = `${here.querySelector(root.lang === "en" ? ".en" : ".zh").textContent} · posttrain`; };
  entitle();
  if (!document.getElementById("report")) language.addEventListener("click", () => { root.lang = root.lang === "en" ? "zh-Hans" : "en"; entitle(); });
  language.addEventListener("click", () => setTimeout(() => localStorage.setItem("posttrain-language", root.lang)));

  // Words of the page in both languages, of which one is shown; {0}, {1} are texts.
  function say(words, ...values) {
    const one = (lang, text) => {
      const span = document.createElement("span");
      span.className = lang === "en" ? "en" : "zh";
      if (lang !== "en") span.lang = lang;
      span.textContent = text.replace(/\{(\d)\}/g, (_, i) => String(values[i]));
      return span;
    };
    if (!Object.hasOwn(zh, words)) throw new Error(`no Chinese for: ${words}`);
    const both = document.createDocumentFragment();
    both.append(one("en", words), one("zh-Hans", zh[words]));
    return both;
  }

  // What a cell holds, said in the cell where a narrow page stacks them.
  const cell = (words) => ({ "data-en": words, "data-zh": zh[words] });

  // Names that the library gives: those that are no words of the page stay as they are.
  const named = (name) => (Object.hasOwn(zh, name) ? say(name) : name);

  // An element; children that are no nodes become text.
  function make(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
    made.append(...children.flat(Infinity).filter((child) => child != null && child !== false).map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
    return made;
  }

  // Make `old` what `fresh` is, and leave alone what is the same: focus, scrolling and open parts stay.
  function morph(old, fresh) {
    if (old.nodeName !== fresh.nodeName || old.id !== fresh.id) { old.replaceWith(document.importNode(fresh, true)); return; }
    if (old.nodeType !== Node.ELEMENT_NODE) { if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue; return; }
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value && name !== "open") old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    if (old.matches(".plot, [data-own]")) return;
    const before = [...old.childNodes], after = [...fresh.childNodes];
    after.forEach((child, i) => { if (before[i]) morph(before[i], child); else old.append(document.importNode(child, true)); });
    for (const child of before.slice(after.length)) child.remove();
  }

  async function answer(response) {
    const value = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(value.error?.message ?? `${response.status}`);
    return value;
  }
  const get = async (path) => answer(await fetch(path));
  const post = async (path, value) => answer(await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) }));

  // Server-sent events while the page is looked at: a browser has few connections to one server.
  function follow(path, heard) {
    let source;
    const begin = () => {
      source = new EventSource(path);
      source.onmessage = (event) => heard(JSON.parse(event.data));
    };
    document.addEventListener("visibilitychange", () => {
      source?.close();
      source = undefined;
      if (!document.hidden) begin();
    });
    if (!document.hidden) begin();
  }

  function fail(error) {
    const place = document.getElementById("failure");
    place.textContent = error ? (error.message ?? String(error)) : "";
    place.hidden = !error;
  }

  // Buttons with data-action change the run that they stand in.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-action]");
    if (!button) return;
    const run = button.closest("[data-run]").dataset.run;
    button.disabled = true;
    fail();
    try { await post(`/api/runs/${run}/${button.dataset.action}`, {}); } catch (error) { fail(error); button.disabled = false; }
  });

  const bytes = (count) => (count >= 1e8 ? `${(count / 1e9).toFixed(2)} GB` : count >= 1e5 ? `${(count / 1e6).toFixed(1)} MB` : `${Math.ceil(count / 1e3)} kB`);
  const number = (value) => (value == null ? "–" : Number(value).toLocaleString("en", { maximumSignificantDigits: 4 }));
  const count = (value) => (value == null ? "–" : Number(value).toLocaleString("en"));
  const ready = () => { root.dataset.ready = ""; };
  const data = () => JSON.parse(document.getElementById("data").textContent);
  return { say, named, cell, make, morph, answer, get, post, follow, fail, bytes, number, count, ready, data };
})();
