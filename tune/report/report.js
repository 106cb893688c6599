"use strict";
(() => {
  const PRINT_PX = 700;
  const print = matchMedia("print");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Plots take their text and lines from the page's style, which follows the reader's theme.
  const themed = (layout) => {
    const ink = colour("--ink"), line = colour("--grid");
    const changes = { "font.color": ink, "font.family": "system-ui, sans-serif", "font.size": 12 };
    changes["hoverlabel.bgcolor"] = colour("--card");
    changes["hoverlabel.font.color"] = ink;
    changes["hoverlabel.bordercolor"] = line;
    for (const axis of ["xaxis", "yaxis", ...Object.keys(layout).filter((k) => /^[xy]axis\d+$/.test(k))]) {
      changes[`${axis}.gridcolor`] = line;
      changes[`${axis}.zerolinecolor`] = line;
      changes[`${axis}.linecolor`] = line;
    }
    return changes;
  };
  const plots = [...document.querySelectorAll(".plot")];
  const config = { responsive: true, displayModeBar: false };
  const ready = Promise.all(plots.map(async (plot) => {
    const figure = JSON.parse(plot.querySelector("script").textContent);
    plot.replaceChildren();
    await Plotly.newPlot(plot, figure.data, figure.layout, config);
    return Plotly.relayout(plot, themed(figure.layout));
  }));
  const repaint = (size) => plots.forEach((plot) => Plotly.relayout(plot, { ...themed(plot.layout), ...size }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint({}));
  addEventListener("beforeprint", () => repaint({ width: PRINT_PX }));
  addEventListener("afterprint", () => repaint({ width: null, autosize: true }));
  print.addEventListener("change", (event) => repaint(event.matches ? { width: PRINT_PX } : { width: null, autosize: true }));
  ready.then(() => document.documentElement.setAttribute("data-ready", "true"));

  // The grid shows each trial as it was at the slider's step, or at its last one before.
  const slider = document.getElementById("step");
  const rows = [...document.querySelectorAll(".grid tbody tr")];
  const show = (step) => {
    document.querySelector(".slider output").textContent = step;
    for (const row of rows) {
      let shown = null;
      for (const cell of row.querySelectorAll("td")) {
        const images = [...cell.querySelectorAll("img")];
        const last = images.filter((image) => Number(image.dataset.step) <= step).pop();
        images.forEach((image) => { image.hidden = image !== last; });
        if (last) shown = last.dataset.step;
      }
      const scores = Object.fromEntries(row.dataset.scores.trim().split(/\s+/).map((pair) => pair.split(":")));
      row.classList.toggle("ended", row.dataset.state !== "finished" && Number(row.dataset.last) < step);
      row.querySelector(".score").textContent = shown === null ? "–" : scores[shown] ?? "–";
      row.querySelector(".at").textContent = shown === null ? "no images yet" :
        (Number(row.dataset.last) <= step ? `${row.dataset.state}, step ${shown}` : `step ${shown}`);
    }
  };
  if (slider) {
    const steps = slider.dataset.steps.split(" ").map(Number);
    slider.addEventListener("input", () => show(steps[slider.value]));
    show(steps[slider.value]);
  }

  for (const button of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
