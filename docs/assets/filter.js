"use strict";
// The catalogue of bugs: rows by any word and by step. Its table is made by tests/porting_bugs/bugs.py.
(() => {
  if (!location.pathname.endsWith("porting_bugs.html")) return;
  const table = document.querySelector("article table");
  const chinese = document.documentElement.lang.startsWith("zh");
  const rows = [...table.tBodies[0].rows];
  const words = rows.map((row) => row.textContent.toLowerCase());
  const steps = [...new Set(rows.map((row) => row.cells[0].textContent.trim()))].sort();

  const form = document.createElement("form");
  form.className = "filter";
  const text = document.createElement("input");
  text.type = "search";
  text.placeholder = chinese ? "按任意词筛选，例如 momentum、损失 NaN" : "Filter by any words: momentum, loss NaN";
  text.setAttribute("aria-label", text.placeholder);
  const step = document.createElement("select");
  step.setAttribute("aria-label", chinese ? "步骤" : "step");
  step.append(new Option(chinese ? "全部步骤" : "all steps", ""), ...steps.map((name) => new Option(name, name)));
  const count = document.createElement("output");
  form.append(text, step, count);

  function filter() {
    const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      const fits = wanted.every((word) => words[index].includes(word)) &&
        (!step.value || row.cells[0].textContent.trim() === step.value);
      row.hidden = !fits;
      if (fits) shown += 1;
    });
    count.textContent = `${shown} / ${rows.length}`;
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  (table.closest(".md-typeset__scrollwrap") ?? table).before(form);
  filter();
})();
