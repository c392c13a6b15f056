/* Lets a reader sort the main table by any column, and keep the rows of some trainings. */
const NEXT = {
  words: { none: "ascending", ascending: "descending", descending: "none" },
  numbers: { none: "descending", descending: "ascending", ascending: "none" },
};

for (const box of document.querySelectorAll("div.main-table")) {
  const table = box.querySelector("table");
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows]; // as in the paper
  const text = (row, column) => row.cells[column].textContent.trim();

  heads.forEach((head, column) => {
    const values = new Map(rows.map((row) => [row, parseFloat(text(row, column))]));
    const kind = [...values.values()].some(Number.isFinite) ? "numbers" : "words";
    const compare = {
      words: (a, b) => text(a, column).localeCompare(text(b, column)),
      numbers: (a, b) => (values.get(a) || 0) - (values.get(b) || 0),
    }[kind];
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = NEXT[kind][head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? order : "none"));
      const sorted = order === "none" ? rows : rows.toSorted(compare);
      table.tBodies[0].append(...(order === "descending" ? sorted.reverse() : sorted));
    });
  });

  const bar = document.createElement("div");
  const count = document.createElement("output");
  const kinds = (row) => [...row.querySelectorAll(".kind")].map((kind) => kind.textContent);
  const choices = [...rows[0].querySelectorAll(".kind")].map((kind, index) => {
    const select = document.createElement("select");
    const label = document.createElement("label");
    select.append(new Option("all", ""));
    for (const value of new Set(rows.map((row) => kinds(row)[index]))) select.append(new Option(value));
    label.append(`${kind.title} `, select);
    bar.append(label);
    return select;
  });
  const filter = () => {
    for (const row of rows)
      row.hidden = kinds(row).some((kind, index) => ![kind, ""].includes(choices[index].value));
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  bar.className = "choices";
  bar.append(count);
  bar.addEventListener("change", filter);
  box.prepend(bar);
  filter();
}
