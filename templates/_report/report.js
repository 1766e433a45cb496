"use strict";
// Charts, sorting and copying of the report. Everything that is drawn here stands in a table, too.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const element = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const drawn = new Map(); // id -> { chart, draw }
  const escapeText = (text) => String(text).replace(/[&<>"']/g, (sign) => "&#" + sign.charCodeAt(0) + ";");
  const short = (text, most) => { const signs = Array.from(String(text)); return signs.length > most ? signs.slice(0, most - 1).join("") + "…" : signs.join(""); };
  const number = (value) => (value === null || value === undefined ? "–" : +(+value).toPrecision(4) + "");

  function draw(id, makeOption) {
    const box = element(id);
    if (!box) return null;
    let entry = drawn.get(id);
    if (!entry) {
      entry = { chart: echarts.init(box, null, { renderer: "canvas" }) };
      drawn.set(id, entry);
      const canvas = box.querySelector("canvas");
      if (canvas) canvas.setAttribute("aria-hidden", "true");
    }
    entry.makeOption = makeOption;
    entry.chart.setOption({ animation: false, textStyle: { color: colour("ink"), fontFamily: "system-ui, sans-serif" }, ...makeOption() }, true);
    return entry.chart;
  }
  // A chart is drawn when it comes near the window, or before printing: the page opens at once.
  const waiting = new Map(); // element -> what draws it
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => entry.isIntersecting && wake(entry.target)), { rootMargin: "300px" });
  function whenNear(id, start) { const box = element(id); if (box) { waiting.set(box, start); watcher.observe(box); } }
  function wake(box) { const start = waiting.get(box); if (start) { waiting.delete(box); watcher.unobserve(box); start(); } }
  const axis = (more) => ({ axisLine: { lineStyle: { color: colour("muted") } }, axisLabel: { color: colour("muted") }, splitLine: { lineStyle: { color: colour("line") } }, nameTextStyle: { color: colour("muted") }, ...more });
  const tooltip = (more) => ({ backgroundColor: colour("card"), borderColor: colour("line"), textStyle: { color: colour("ink") }, confine: true, transitionDuration: 0, ...more });
  const legend = () => ({ top: 0, textStyle: { color: colour("ink") }, inactiveColor: colour("muted") });

  // -- training ---------------------------------------------------------------------------------
  function drawCurves(id, series, percent) {
    const names = Object.keys(series);
    if (!names.length || !element(id)) return;
    const colours = () => [colour("float"), colour("int8"), colour("emul")];
    const count = Math.max(...names.map((name) => series[name].length));
    whenNear(id, () => draw(id, () => ({
      color: colours(), legend: names.length > 1 ? legend() : undefined, tooltip: tooltip({ trigger: "axis", valueFormatter: (value) => number(value) + (percent ? " %" : "") }),
      grid: { left: 12, right: 16, top: names.length > 1 ? 32 : 14, bottom: 8, containLabel: true },
      xAxis: axis({ type: "category", data: Array.from({ length: count }, (_, place) => place + 1), boundaryGap: count < 2 }),
      yAxis: axis({ type: "value", scale: true, max: percent ? ({ max }) => (max > 98 ? 100 : null) : null }),
      series: names.map((name, place) => ({ name: name.replace(/_/g, " "), type: "line", data: series[name], symbol: ["circle", "diamond", "triangle"][place % 3], symbolSize: 7, lineStyle: { width: 2, type: ["solid", "dashed", "dotted"][place % 3] } })),
    })));
  }
  const { curves, learning_rate: rate, seconds } = data.training;
  const pick = (end) => Object.fromEntries(Object.entries(curves).filter(([name]) => name.endsWith(end)));
  drawCurves("chart-accuracy", pick("accuracy"), true);
  drawCurves("chart-loss", pick("loss"), false);
  if (rate.length) drawCurves("chart-rate", { "learning rate": rate }, false);
  if (seconds.length) drawCurves("chart-seconds", { seconds }, false);

  // -- confusion matrix ---------------------------------------------------------------------------
  const { names, cells } = data.confusion;
  let shown = "int8";
  const valueOf = (cell) => (shown === "int8" ? cell[3] : shown === "float" ? cell[2] : cell[3] - cell[2]);
  function confusionOption() {
    const totals = new Map();
    for (const cell of cells) totals.set(cell[0], (totals.get(cell[0]) || 0) + (shown === "float" ? cell[2] : cell[3]));
    const points = cells.filter((cell) => valueOf(cell)).map((cell) => [cell[1], cell[0], valueOf(cell), cell]);
    const many = names.length > 30, change = shown === "change";
    const most = Math.max(1, ...points.map((point) => Math.abs(point[2])));
    const label = axis({ type: "category", data: names.map((_, place) => place), splitLine: { show: false }, axisTick: { show: false } });
    const named = { color: colour("muted"), formatter: (place) => short(names[place], 12), hideOverlap: true };
    return {
      tooltip: tooltip({
        formatter: ({ data: point }) => `<b>${escapeText(short(names[point[1]], 60))}</b> taken for <b>${escapeText(short(names[point[0]], 60))}</b><br>float ${point[3][2]}, int8 ${point[3][3]}`,
        extraCssText: "white-space: normal; max-width: 18rem; overflow-wrap: anywhere",
      }),
      grid: { left: 8, right: 12, top: 12, bottom: 8, containLabel: true },
      xAxis: { ...label, axisLabel: { ...named, rotate: names.length > 6 ? 60 : 0 } },
      yAxis: { ...label, inverse: true, axisLabel: named },
      dataZoom: [{ type: "inside", xAxisIndex: 0, filterMode: "weakFilter", minValueSpan: 2 }, { type: "inside", yAxisIndex: 0, filterMode: "weakFilter", minValueSpan: 2 }],
      visualMap: {
        show: false, dimension: 2, min: change ? -most : 0, max: most, calculable: false,
        inRange: { color: change ? [colour("good"), colour("soft"), colour("bad")] : dark.matches ? ["#1d2c3f", "#2f62a8", "#7fb0ff"] : ["#e6eef9", "#6f9fdd", "#134a9c"] },
      },
      series: [{
        type: "heatmap", data: points, progressive: 4000, itemStyle: { borderColor: colour("card"), borderWidth: many ? 0 : 1 },
        label: { show: names.length <= 12, formatter: ({ data: point }) => point[2], color: dark.matches ? "#fff" : "#0b1a2e", textBorderColor: dark.matches ? "#0b1a2e" : "#fff", textBorderWidth: 2 },
        emphasis: { itemStyle: { borderColor: colour("ink"), borderWidth: 2 } },
      }],
    };
  }
  let confusion = null;
  const report = () => { element("chart-confusion").dataset.range = confusion.getOption().dataZoom.map(({ start, end }) => `${start.toFixed(1)}-${end.toFixed(1)}`).join(" "); };
  const readyConfusion = () => { wake(element("chart-confusion")); return confusion; };
  if (cells.length) whenNear("chart-confusion", () => { confusion = draw("chart-confusion", confusionOption); report(); confusion.on("datazoom", report); });
  for (const button of document.querySelectorAll("[data-confusion]")) {
    button.addEventListener("click", () => {
      shown = button.dataset.confusion;
      for (const other of document.querySelectorAll("[data-confusion]")) other.setAttribute("aria-pressed", String(other === button));
      const kept = readyConfusion().getOption().dataZoom.map(({ start, end }) => ({ start, end }));
      draw("chart-confusion", confusionOption);
      kept.forEach((range, place) => confusion.dispatchAction({ type: "dataZoom", dataZoomIndex: place, ...range }));
    });
  }
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      readyConfusion().getOption().dataZoom.forEach(({ start, end }, place) => {
        const middle = (start + end) / 2, half = Math.min(50, ((end - start) / 2) * { in: 0.6, out: 1 / 0.6, all: 1e3 }[button.dataset.zoom]);
        const from = Math.min(Math.max(0, middle - half), 100 - 2 * half);
        confusion.dispatchAction({ type: "dataZoom", dataZoomIndex: place, start: from, end: from + 2 * half });
      });
      report();
    });
  }

  // -- layers ---------------------------------------------------------------------------------------
  const layers = data.layers, histograms = new Map(data.histograms.map((row) => [row.node, row]));
  let figure = "cost_db", layer = Math.max(0, layers.findIndex((row) => row.cost_db === Math.max(...layers.map((one) => one.cost_db ?? -Infinity))));
  const figures = {
    cost_db: [["the output gains", "cost_db", "bar"]],
    sqnr: [["weights", "weights_sqnr_db", "line"], ["activations, with what came before", "activation_sqnr_db", "line"]],
    saturated: [["saturated share", "saturated", "bar"]],
    fix: [["weights", "weights_fix", "line"], ["activations", "activation_fix", "line"]],
  };
  function layersOption() {
    const chosen = figures[figure];
    return {
      color: [colour("float"), colour("int8")], legend: chosen.length > 1 ? legend() : undefined,
      tooltip: tooltip({
        trigger: "axis", axisPointer: { type: "shadow" },
        formatter: (items) => { const row = layers[items[0].dataIndex]; return `<b>${escapeText(short(row.layer, 60))}</b> ${escapeText(row.kind)}<br>` + chosen.map(([name, key]) => `${name}: ${number(row[key])}`).join("<br>"); },
      }),
      grid: { left: 8, right: 12, top: chosen.length > 1 ? 32 : 12, bottom: 4, containLabel: true },
      xAxis: axis({ type: "category", data: layers.map((_, place) => place), triggerEvent: true, axisLabel: { color: colour("muted"), rotate: 55, hideOverlap: true, formatter: (place) => short(layers[place].layer, 18) }, splitLine: { show: false } }),
      yAxis: axis({ type: "value", scale: figure === "sqnr" }),
      series: chosen.map(([name, key, type], place) => ({
        name, type, symbol: place ? "diamond" : "circle", symbolSize: 9, step: figure === "fix" ? "middle" : false, connectNulls: true,
        lineStyle: { width: 2, type: place ? "dashed" : "solid" },
        data: layers.map((row, at) => ({ value: row[key] ?? "-", itemStyle: at === layer ? { color: colour("emul"), borderColor: colour("ink"), borderWidth: 1 } : {} })),
      })),
    };
  }
  function drawHistogram(id, row, name) {
    const box = element(id);
    if (!box) return;
    const found = row && row[name], caption = element("cap-" + (name === "weights" ? "weights" : "activation"));
    if (!found) { caption.textContent = name === "weights" ? "This layer has no weights on a grid." : "The result of this layer is not rounded here."; draw(id, () => ({ series: [] })); return; }
    const size = 2 ** -found.fix, codes = 2 ** found.bits, per = codes / found.counts.length;
    const low = (place) => (place * per - codes / 2) * size;
    caption.textContent = `${name === "weights" ? "Weights" : "Activations"} against the int${found.bits} grid: fix position ${found.fix}, step ${number(size)}; values ${number(found.low)} to ${number(found.high)}; ${found.levels} of ${codes} levels in use; ${found.below + found.above} clipped.`;
    draw(id, () => ({
      color: [colour(name === "weights" ? "float" : "int8")],
      tooltip: tooltip({ formatter: ({ dataIndex, value }) => `${number(low(dataIndex))} to ${number(low(dataIndex + 1))}<br>${value} values` }),
      grid: { left: 8, right: 16, top: 10, bottom: 4, containLabel: true },
      xAxis: axis({ type: "category", data: found.counts.map((_, place) => number(low(place))), axisLabel: { color: colour("muted"), hideOverlap: true }, splitLine: { show: false } }),
      yAxis: axis({ type: "log", min: 0.5, logBase: 10, axisLabel: { color: colour("muted"), formatter: (value) => (value < 1 ? "" : number(value)) } }),
      series: [{ type: "bar", data: found.counts.map((count) => count || "-"), barCategoryGap: 0 }],
    }));
  }
  function chooseLayer(place) {
    if (!layers[place]) return;
    layer = place;
    draw("chart-layers", layersOption);
    const select = element("choose-layer"), row = layers[place], title = element("layer-title");
    if (select) select.value = String(place);
    if (title) title.textContent = `${row.layer} (${row.kind})`;
    if (data.histograms.length) { drawHistogram("chart-weights", histograms.get(row.node), "weights"); drawHistogram("chart-activation", histograms.get(row.node), "activation"); }
  }
  if (layers.length) {
    whenNear("chart-layers", () => {
      const chart = draw("chart-layers", layersOption);
      chart.getZr().on("click", (event) => {
        const at = chart.convertFromPixel({ gridIndex: 0 }, [event.offsetX, event.offsetY]);
        if (at && at[0] >= -0.5 && at[0] < layers.length - 0.5) chooseLayer(Math.round(at[0]));
      });
      chooseLayer(layer);
    });
    const ready = () => wake(element("chart-layers"));
    element("choose-layer").addEventListener("change", (event) => { const place = +event.target.value; ready(); chooseLayer(place); });
    element("choose-figure").addEventListener("change", (event) => { ready(); figure = event.target.value; draw("chart-layers", layersOption); });
  }

  // -- roofline -------------------------------------------------------------------------------------
  if (data.roofline && data.operators.length) {
    const { peak_gops: peak, bandwidth_gb_per_s: bandwidth } = data.roofline;
    const points = data.operators.map((row) => ({ value: [row.ops_per_byte, row.workload / (row.ms * 1e6)], row }));
    const values = points.map(({ value }) => value).filter(([x, y]) => x > 0 && y > 0);
    const left = Math.min(...values.map(([x]) => x)) / 2, right = Math.max(...values.map(([x]) => x), bandwidth ? peak / bandwidth : 1) * 2;
    const roof = bandwidth ? [[left, left * bandwidth], [peak / bandwidth, peak], [right, peak]] : [[left, peak], [right, peak]];
    whenNear("chart-roofline", () => draw("chart-roofline", () => ({
      tooltip: tooltip({ formatter: ({ data: point }) => (point.row ? `<b>${escapeText(short(point.row.label, 60))}</b> ${escapeText(point.row.kind)}<br>${number(point.value[0])} operations per byte<br>${number(point.value[1])} GOP/s, ${number(point.row.ms)} ms, bound by ${escapeText(point.row.bound)}` : "") }),
      grid: { left: 8, right: 20, top: 24, bottom: 24, containLabel: true },
      xAxis: axis({ type: "log", name: "operations per byte", nameLocation: "middle", nameGap: 26, min: left, max: right, axisLabel: { color: colour("muted"), formatter: number, showMinLabel: false, showMaxLabel: false } }),
      yAxis: axis({ type: "log", name: "GOP/s", axisLabel: { color: colour("muted"), formatter: number } }),
      series: [
        { type: "line", data: roof, symbol: "none", lineStyle: { color: colour("ink"), width: 2 }, silent: true },
        ...["compute", "memory"].map((bound) => ({ type: "scatter", name: bound, data: points.filter(({ row }) => (row.bound === "memory") === (bound === "memory")), symbol: bound === "memory" ? "diamond" : "circle", symbolSize: 11, itemStyle: { color: colour(bound === "memory" ? "cpu" : "dpu"), opacity: 0.85 } })),
      ],
    })));
  }

  // -- tables ---------------------------------------------------------------------------------------
  const cellValue = (row, column) => { const cell = row.cells[column], held = cell.querySelector("data"); if (!held) return cell.textContent.trim(); const value = JSON.parse(held.value); return value === null ? -Infinity : value; };
  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("th[aria-sort]").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        const rows = Array.from(table.tBodies[0].rows);
        const order = (a, b) => { const [one, two] = [cellValue(a, column), cellValue(b, column)]; return typeof one === "number" && typeof two === "number" ? one - two : String(one).localeCompare(String(two), undefined, { numeric: true }); };
        rows.sort((a, b) => (down ? order(b, a) : order(a, b)));
        table.tBodies[0].append(...rows);
        table.querySelectorAll("th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", other === head ? (down ? "descending" : "ascending") : "none"));
      });
    });
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(button.dataset.copy); button.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(button.previousElementSibling); button.textContent = "Selected"; }
    });
  }

  // -- the window -------------------------------------------------------------------------------------
  const again = () => drawn.forEach(({ chart }) => chart.resize());
  new ResizeObserver(again).observe(document.body);
  addEventListener("beforeprint", () => { Array.from(waiting.keys()).forEach(wake); again(); });
  dark.addEventListener("change", () => drawn.forEach((entry, id) => draw(id, entry.makeOption)));
  document.documentElement.dataset.ready = "yes";
})();
