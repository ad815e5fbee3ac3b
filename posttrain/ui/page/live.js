"use strict";
// Follows one run: the page is fetched anew when its folder has news, and what differs is changed in place.
(() => {
  const bar = document.getElementById("runbar"), run = bar?.dataset.run, output = document.getElementById("output");
  if (!run) { ui.ready(); return; }
  let last = bar.dataset.stamp + bar.dataset.status, busy = false, again = false, notBefore = 0;

  async function renew() {
    if (busy) { again = true; return; }
    busy = true;
    await new Promise((done) => setTimeout(done, Math.max(0, notBefore - performance.now())));
    again = false;
    const begun = performance.now();
    try {
      const text = await (await fetch(location.pathname)).text();
      const fresh = new DOMParser().parseFromString(text, "text/html"); // runs no script; everything in it is escaped
      const now = document.getElementById("report"), then = fresh.getElementById("report");
      if (!now !== !then) { location.reload(); return; }
      for (const of of ["#runbar", "header", "main"]) {
        const old = document.querySelector(of);
        if (old && fresh.querySelector(of)) ui.morph(old, fresh.querySelector(of));
      }
      document.title = fresh.title;
      if (now) { now.textContent = then.textContent; document.dispatchEvent(new Event("renewed")); }
      if (document.getElementById("output").open) await print();
    } catch (error) { if (!(error instanceof TypeError)) ui.fail(error); } // the server is gone: the page stays as it is
    notBefore = performance.now() + Math.max(1500, 20 * (performance.now() - begun));
    busy = false;
    if (again) renew();
  }

  async function print() {
    const place = document.querySelector("#output pre"), { text } = await ui.get(`/api/runs/${run}/output`);
    const end = place.scrollHeight - place.scrollTop - place.clientHeight < 8;
    place.textContent = text;
    if (end) place.scrollTop = place.scrollHeight;
  }
  output.addEventListener("toggle", () => { if (output.open) print(); });
  if (output.open) print();

  ui.follow(`/api/runs/${run}/events`, ({ stamp, status }) => {
    if (last !== stamp + status) renew();
    last = stamp + status;
  });
  ui.ready();
})();
