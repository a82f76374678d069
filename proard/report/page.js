"use strict";
(() => {
const root = document.documentElement;
const data = JSON.parse(document.getElementById("data").textContent);
const units = { "": 0, K: 3, M: 6, G: 9, T: 12 };

// ---- Budgets: read as `proard extract` does; which student each one leads to is in the data

/** The number that a text such as 100M, 1.5G or 2e8 means; null for anything else. */
function parse(text) {
  const match = /^\s*\+?(\d+\.?\d*|\.\d+)(?:[eE]([-+]?\d+))?\s*([A-Za-z]?)\s*$/.exec(text);
  const power = match ? units[match[3].toUpperCase()] : undefined;
  if (power === undefined) return null;
  const value = Number(match[1] + "e" + (Number(match[2] || 0) + power));
  return value > 0 && Number.isFinite(value) ? value : null;
}

/** 98.7M for 98,700,000: three digits, rounded up on request. */
function short(value, up) {
  for (const [unit, power] of Object.entries(units).reverse()) {
    const scaled = value / 10 ** power;
    if (scaled >= 1) {
      const digits = Math.max(0, 3 - String(Math.floor(scaled)).length);
      return (up ? Math.ceil(scaled * 10 ** digits) / 10 ** digits : scaled).toFixed(digits) + unit;
    }
  }
  return String(value);
}

/** The best student within a limit, as the page was told; null if none fits. */
function choose(cost, limit) {
  const step = data.steps[cost].filter(([least]) => least <= limit).pop();
  return step ? data.students[step[1]] : null;
}

// ---- Plots, in the colours of the theme

const narrow = () => window.innerWidth < 600;

function coloured(value, style) {
  if (typeof value === "string" && value.startsWith("var(--")) return style.getPropertyValue(value.slice(4, -1)).trim();
  if (Array.isArray(value)) return value.map((item) => coloured(item, style));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  }
  return value;
}

function draw(element, width) {
  if (!window.Plotly) return undefined;
  const style = getComputedStyle(root);
  const figure = data.plots[element.dataset.plot];
  const marks = element.id === "front-plot" ? budgetMarks() : { data: [], shapes: [] };
  const axis = { gridcolor: "var(--edge)", zerolinecolor: "var(--edge)", linecolor: "var(--muted)", automargin: true };
  const layout = {
    autosize: width === undefined,
    height: figure.height + (narrow() ? 20 * Math.min(figure.data.length, 6) : 0),
    margin: { l: 52, r: 12, t: 24, b: 48 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: "var(--text)" },
    hoverlabel: { bgcolor: "var(--panel)", bordercolor: "var(--muted)", font: { color: "var(--text)" }, align: "left" },
    legend: { orientation: "h", x: 0, y: -60 / (figure.height - 110), yanchor: "top", font: { size: 11 } },
    dragmode: false,
    ...figure.layout,
    shapes: [...(figure.layout.shapes || []), ...marks.shapes],
    xaxis: { ...axis, ...figure.layout.xaxis },
    yaxis: { ...axis, ...figure.layout.yaxis },
  };
  if (width !== undefined) layout.width = width;
  const traces = [...figure.data, ...marks.data];
  const settings = { displayModeBar: false, responsive: true };
  return Plotly.react(element, coloured(traces, style), coloured(layout, style), settings);
}

const plots = [...document.querySelectorAll(".plot")];
const drawAll = (width) => Promise.all(plots.map((element) => draw(element, width)));

// ---- The choice by budget

const control = document.getElementById("budget");
const state = { cost: "multiply_adds", limit: null, chosen: null };

function budgetMarks() {
  if (!control || state.limit === null) return { data: [], shapes: [] };
  const line = { color: "var(--text)", width: 1, dash: "dash" };
  const shape = { type: "line", x0: state.limit, x1: state.limit, yref: "paper", y0: 0, y1: 1, line };
  if (!state.chosen) return { data: [], shapes: [shape] };
  const ring = {
    type: "scatter", mode: "markers", name: "chosen", showlegend: false, hoverinfo: "skip",
    x: [state.chosen.costs[state.cost]], y: [100 * state.chosen.robust],
    marker: { size: 16, color: "rgba(0,0,0,0)", line: { color: "var(--text)", width: 2 } },
  };
  return { data: [ring], shapes: [shape] };
}

function show(text) {
  const chosen = document.getElementById("chosen");
  const field = document.getElementById("budget-text");
  const slider = document.getElementById("budget-slider");
  const limit = parse(text);
  field.setAttribute("aria-invalid", String(limit === null));
  state.limit = limit;
  state.chosen = limit === null ? null : choose(state.cost, limit);
  const command = `proard extract --run ${data.run} --${data.options[state.cost]} ${text.replace(/\s/g, "")}`;
  const name = document.getElementById("chosen-name");
  const facts = document.getElementById("chosen-facts");
  const picture = document.getElementById("chosen-picture");
  const row = document.getElementById("command-row");
  facts.replaceChildren();
  picture.replaceChildren();
  chosen.dataset.student = state.chosen ? state.chosen.name : "";
  row.hidden = !state.chosen;
  if (limit === null) {
    name.textContent = `"${text}" is not a number with a unit (K, M, G), such as 100M.`;
  } else if (state.chosen === null) {
    const least = short(data.steps[state.cost][0][0], true);
    name.textContent = `No student fits ${text} ${data.nouns[state.cost]}; the smallest needs ${least}.`;
  } else {
    name.textContent = `Best robust student within ${text} ${data.nouns[state.cost]}: ${state.chosen.name}`;
    for (const [term, value] of state.chosen.facts) {
      facts.append(Object.assign(document.createElement("dt"), { textContent: term }));
      facts.append(Object.assign(document.createElement("dd"), { textContent: value }));
    }
    picture.innerHTML = state.chosen.picture;
    document.getElementById("command").textContent = command;
  }
  if (limit !== null) {
    const [low, high] = data.ranges[state.cost];
    const place = high > low ? Math.log(limit / low) / Math.log(high / low) : 1;
    slider.value = Math.round(1000 * Math.min(1, Math.max(0, place)));
  }
  slider.setAttribute("aria-valuetext", `${text} ${data.nouns[state.cost]}`);
  const plot = document.getElementById("front-plot");
  if (plot) draw(plot);
}

/** The budget at a place of the slider, 0 to 1000, evenly on a log scale. */
function budgetAt(place) {
  const [low, high] = data.ranges[state.cost];
  return short(low * (high / low) ** (place / 1000), true);
}

function startBudget() {
  const field = document.getElementById("budget-text");
  const slider = document.getElementById("budget-slider");
  const cost = document.getElementById("budget-cost");
  field.addEventListener("input", () => show(field.value));
  slider.addEventListener("input", () => {
    field.value = budgetAt(Number(slider.value));
    show(field.value);
  });
  cost.addEventListener("change", () => {
    state.cost = cost.value;
    const plot = document.getElementById("front-plot");
    plot.dataset.plot = `front-${cost.value}`;
    plot.setAttribute("aria-label", data.plots[plot.dataset.plot].summary);
    plot.nextElementSibling.textContent = data.plots[plot.dataset.plot].summary;
    field.value = data.initial[state.cost];
    show(field.value);
  });
  document.getElementById("copy").addEventListener("click", copy);
  cost.value = state.cost;
  field.value = data.initial[state.cost];
  show(field.value);
}

async function copy() {
  const command = document.getElementById("command");
  const status = document.getElementById("copied");
  let done = true;
  try {
    await navigator.clipboard.writeText(command.textContent);
  } catch {  // not allowed for this page: the older way
    getSelection().selectAllChildren(command);
    done = document.execCommand("copy");
  }
  status.textContent = done ? "copied" : "select the line and copy it";
  setTimeout(() => { status.textContent = ""; }, 3000);
}

// ---- Start, theme, print

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/** plotly travels compressed: it is most of this page. */
async function startPlots() {
  try {
    const script = document.createElement("script");
    script.textContent = await unpack(document.getElementById("plotly").textContent);
    document.head.append(script);
    await drawAll();
  } catch (error) {
    for (const element of plots) element.textContent = "This browser cannot draw the plot; the table has its numbers.";
  }
  root.dataset.ready = "true";
}

if (control) startBudget();
startPlots();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
const closed = [];
window.addEventListener("beforeprint", () => {
  root.classList.add("printing");
  closed.push(...[...document.querySelectorAll("details:not([open])")]);
  closed.forEach((element) => { element.open = true; });
  drawAll(680);
});
window.addEventListener("afterprint", () => {
  root.classList.remove("printing");
  closed.splice(0).forEach((element) => { element.open = false; });
  drawAll();
});
})();
