/* Draws the charts of a page in place of their static twins, which stay where that fails. */
const lines = { gridColor: "currentColor", gridOpacity: 0.2 };
for (const part of ["label", "title", "domain", "tick"]) lines[`${part}Color`] = "currentColor";
const words = { labelColor: "currentColor", titleColor: "currentColor" };
const theme = { axis: lines, legend: words, title: { color: "currentColor" }, view: { stroke: null } };

for (const box of document.querySelectorAll("div.chart")) {
  const spec = JSON.parse(box.querySelector("script").textContent);
  if (box.clientWidth < 600) spec.columns = 1; // panels below each other on a telephone
  const place = document.createElement("div");
  box.append(place);
  const actions = { export: true, source: false, compiled: false, editor: false };
  vegaEmbed(place, spec, { renderer: "svg", config: theme, actions }).then(
    () => {
      box.querySelector(".drawing").remove();
      place.querySelector("summary").setAttribute("aria-label", "save the figure");
    },
    (error) => { place.remove(); console.error(error); },
  );
}
