"use strict";
(() => {
  const root = document.documentElement;
  let report, names, ends; // what is drawn; the stages that have curves, and their last steps
  let whole, view; // all of the time line, and what is shown of it, in every chart of it

  function read() {
    const zoomed = view !== whole;
    report = JSON.parse(document.getElementById("report").textContent);
    names = report.stages.map((stage) => stage.name).filter((name) => report.curves.some((c) => c.stage === name));
    ends = new Map(names.map((name) => [name, Math.max(...report.curves.filter((c) => c.stage === name).map((c) => c.steps[c.steps.length - 1]))]));
    whole = [0, Math.max(1, names.length) - 0.02];
    if (!zoomed) view = whole;
    for (const id of ["zoom", "downloads"]) document.getElementById(id)?.removeAttribute("hidden");
  }

  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const digits = (value) => {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
    return String(Number(value.toPrecision(4)));
  };

  // A stage is one unit wide on the time line; its steps share that, and a gap divides it from the next.
  const place = (stage, step) => names.indexOf(stage) + (step / ends.get(stage)) * 0.96;
  const stepAt = (x) => {
    const stage = names[Math.min(names.length - 1, Math.max(0, Math.floor(x)))];
    return [stage, Math.max(0, Math.round(((x - names.indexOf(stage)) / 0.96) * ends.get(stage)))];
  };

  function pointsOf(metric, only) {
    const xs = [], ys = [];
    for (const curve of report.curves) {
      if (curve.metric !== metric || (only && curve.stage !== only)) continue;
      if (xs.length) { xs.push((xs[xs.length - 1] + place(curve.stage, curve.steps[0])) / 2); ys.push(null); }
      const scale = metric === "memory_bytes" ? 1e9 : 1;
      curve.steps.forEach((step, i) => {
        xs.push(only ? step : place(curve.stage, step));
        ys.push(curve.values[i] == null ? null : curve.values[i] / scale);
      });
    }
    return [xs, ys];
  }

  // Of noisy curves: each point's mean with its neighbours of the same stage.
  function smoothed(ys) {
    const out = [], begins = [0, ...ys.flatMap((value, i) => (value == null ? [i + 1] : [])), ys.length + 1];
    for (let k = 0; k + 1 < begins.length; k++) {
      const part = ys.slice(begins[k], begins[k + 1] - 1), reach = Math.ceil(part.length / 40), sums = [0];
      for (const value of part) sums.push(sums[sums.length - 1] + value);
      part.forEach((_, i) => {
        const from = Math.max(0, i - reach), to = Math.min(part.length, i + reach + 1);
        out.push((sums[to] - sums[from]) / (to - from));
      });
      out.push(null);
    }
    return out.slice(0, ys.length);
  }

  const charts = [];
  const line = () => charts.filter((one) => !one.stage);

  function zoomTo(min, max) {
    if (!(max - min > 1e-4)) return;
    view = min <= whole[0] && max >= whole[1] ? whole : [Math.max(whole[0], min), Math.min(whole[1], max)];
    for (const one of line()) one.plot.setScale("x", { min: view[0], max: view[1] });
  }

  // A line that stays where it is lies in the middle, and no tick looks like its neighbour.
  function room(plot, min, max) {
    if (min == null) return [0, 1];
    if (min === 0 && max === 0) return [-0.04, 1];
    const by = max > min ? (max - min) * 0.06 : Math.abs(max) * 0.1 || 1;
    return [min - by, max + by];
  }
  function ticked(plot, values, axis, space, step) {
    const decimals = step < 1e-6 ? 9 : (String(step).split(".")[1] || "").length;
    return values.map((value) => (decimals > 7 || Math.abs(value) >= 1e5 ? digits(value) : value.toFixed(decimals)));
  }

  function borders(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.fillStyle = color("--faint"); ctx.strokeStyle = color("--line"); ctx.lineWidth = devicePixelRatio;
    ctx.textBaseline = "bottom"; ctx.textAlign = "left";
    names.forEach((name, i) => {
      const x = plot.valToPos(i, "x", true), next = plot.valToPos(i + 1, "x", true);
      if (next < bbox.left || x > bbox.left + bbox.width) return;
      if (i && x >= bbox.left) { ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke(); }
      const begin = Math.max(x, bbox.left) + 4 * devicePixelRatio, room = Math.min(next, bbox.left + bbox.width) - begin;
      let text = name;
      while (text.length > 1 && ctx.measureText(text).width > room) text = `${text.slice(0, -2)}…`;
      ctx.fillText(text, begin, bbox.top - 3 * devicePixelRatio);
    });
    ctx.restore();
  }

  function ticks(plot, axis, min, max) {
    const from = stepAt(min)[0], to = stepAt(max - 1e-9)[0], out = [];
    const many = Math.max(1, Math.floor(plot.width / 90 / (names.indexOf(to) - names.indexOf(from) + 1)));
    for (const name of names.slice(names.indexOf(from), names.indexOf(to) + 1)) {
      const low = Math.max(0, stepAt(Math.max(min, names.indexOf(name)))[1]);
      const high = name === to ? stepAt(Math.min(max, names.indexOf(name) + 0.96))[1] : ends.get(name);
      const least = (high - low) / many, power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
      const by = Math.max(1, [1, 2, 5, 10].map((n) => n * power).find((n) => n >= least) ?? 1);
      const first = Math.max(by, Math.ceil(low / by) * by);
      if (first > high) out.push(place(name, high));
      for (let step = first; step <= high; step += by) out.push(place(name, step));
    }
    return out;
  }

  // Room for the longest number: a label that is cut reads as another number.
  const besides = (plot, labels) => Math.max(58, 16 + 6.5 * Math.max(0, ...(labels ?? []).map((label) => String(label).length)));

  function draw(figure) {
    const { metric, stage } = figure.dataset, box = figure.querySelector(".plot"), words = figure.querySelector(".read");
    const [xs, ys] = pointsOf(metric, stage), width = box.clientWidth;
    if (!width || !xs.length) return;
    const noisy = xs.length > 150;
    const resting = (words.dataset.resting ??= words.textContent);
    const axis = { stroke: () => color("--faint"), grid: { stroke: () => color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const plot = new uPlot({
      width, height: stage ? 130 : 190, legend: { show: false },
      padding: [stage ? 6 : 18, 12, 0, 0],
      scales: { x: { time: false, ...(stage ? {} : { range: () => view }) }, y: { range: room } },
      cursor: {
        sync: stage ? undefined : { key: "line" }, points: { size: 6 }, drag: { x: true, y: false, setScale: !!stage },
        ...(stage ? {} : { bind: { dblclick: () => () => zoomTo(...whole) } }),
      },
      axes: [
        { ...axis, size: 26, grid: { show: false }, ...(stage ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000] } : { splits: ticks, values: (u, at) => at.map((x) => stepAt(x)[1]) }) },
        { ...axis, size: besides, space: stage ? 22 : 30, values: ticked },
      ],
      series: [{}, { stroke: () => color("--curve"), width: noisy ? 1 : 1.5, alpha: noisy ? 0.3 : 1, points: { show: xs.length < 40, size: 4, fill: () => color("--curve") }, spanGaps: false },
        ...(noisy ? [{ stroke: () => color("--curve"), width: 2, points: { show: false }, spanGaps: false }] : [])],
      hooks: {
        draw: stage ? [] : [borders],
        setCursor: [(u) => {
          const i = u.cursor.idx;
          if (i == null || ys[i] == null) { words.textContent = resting; return; }
          const [name, step] = stage ? [stage, xs[i]] : stepAt(xs[i]);
          words.textContent = `${name} ${step}: ${digits(ys[i])}`;
        }],
        setSelect: stage ? [] : [(u) => {
          const { left, width } = u.select;
          if (width > 4) zoomTo(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
          if (width) u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        }],
      },
    }, noisy ? [xs, ys, smoothed(ys)] : [xs, ys], box);
    words.textContent = resting;
    figure.plot = plot; // for whoever looks at the page with a script
    charts.push({ plot, stage });
  }

  function drawAll() {
    for (const one of charts.splice(0)) one.plot.destroy();
    document.querySelectorAll(".chart").forEach(draw);
  }

  const moves = {
    all: () => whole,
    in: (a, b) => [a + (b - a) / 4, b - (b - a) / 4],
    out: (a, b) => [a - (b - a) / 2, b + (b - a) / 2],
    left: (a, b) => { const by = Math.min(a - whole[0], (b - a) / 2); return [a - by, b - by]; },
    right: (a, b) => { const by = Math.min(whole[1] - b, (b - a) / 2); return [a + by, b + by]; },
  };
  function move({ zoom, stage }) {
    const at = names.indexOf(stage);
    zoomTo(...(stage ? [at, at + 0.98] : moves[zoom](...view)));
  }

  const cell = (text) => `"${String(text).replace(/"/g, '""').replace(/^([=+\-@])/, "'$1")}"`;
  function save(kind) {
    const rows = report.curves.flatMap((c) => c.steps.map((step, i) => `${cell(c.stage)},${cell(c.metric)},${step},${c.values[i] ?? ""}`));
    const text = kind === "csv" ? ["stage,metric,step,value", ...rows].join("\n") + "\n" : JSON.stringify(report, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind === "csv" ? "text/csv" : "application/json" }));
    link.download = `${report.name}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("#zoom button, #downloads button");
    if (button?.dataset.download) save(button.dataset.download);
    else if (button) move(button.dataset);
  });

  const language = document.getElementById("language");
  language.hidden = false;
  if ((navigator.language || "").startsWith("zh")) root.lang = "zh-Hans";
  language.addEventListener("click", () => { root.lang = root.lang === "en" ? "zh-Hans" : "en"; });

  let waiting = 0, wide = 0;
  addEventListener("resize", () => {
    if (root.clientWidth === wide) return;
    wide = root.clientWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.addEventListener("toggle", (event) => { if (event.target.querySelector(".chart")) drawAll(); }, true);
  let opened = [];
  addEventListener("beforeprint", () => {
    root.dataset.printed = "";
    opened = [...document.querySelectorAll("details:not([open])")].filter((one) => !one.querySelector(".chart"));
    for (const one of opened) one.open = true;
    drawAll();
  });
  addEventListener("afterprint", () => { delete root.dataset.printed; for (const one of opened) one.open = false; drawAll(); });

  document.addEventListener("renewed", () => { read(); drawAll(); }); // by a page that follows the run
  wide = root.clientWidth;
  read();
  drawAll();
  root.dataset.ready = "";
})();
